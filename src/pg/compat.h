/*
 * The only place that knows PostgreSQL versions. serm targets 15 and is kept
 * ready for 14 to 18.
 */
#ifndef SERM_PG_COMPAT_H
#define SERM_PG_COMPAT_H

#if PG_VERSION_NUM < 140000 || PG_VERSION_NUM >= 190000
#error "serm supports PostgreSQL 14 to 18"
#endif

/* 15 renamed the call that reserves a configuration prefix. */
#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

/* 16 merged the per-catalog ownership checks. */
#if PG_VERSION_NUM >= 160000
#define serm_owns_schema(oid, role) object_ownercheck(NamespaceRelationId, (oid), (role))
#else
#define serm_owns_schema(oid, role) pg_namespace_ownercheck((oid), (role))
#endif

#endif
