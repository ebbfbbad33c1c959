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

/* 15 has a generator of random numbers of its own. */
#if PG_VERSION_NUM >= 150000
#include "common/pg_prng.h"
#define serm_random_fraction() pg_prng_double(&pg_global_prng_state)
#else
#define serm_random_fraction() (random() / (MAX_RANDOM_VALUE + 1.0))
#endif

/* 17 can also ask for stronger locks. */
#if PG_VERSION_NUM >= 170000
#define serm_lock_held(tag, mode) LockHeldByMe((tag), (mode), false)
#else
#define serm_lock_held(tag, mode) LockHeldByMe((tag), (mode))
#endif

/* 16 merged the per-catalog checks of ownership and rights. */
#if PG_VERSION_NUM >= 160000
#define serm_owns_schema(oid, role) object_ownercheck(NamespaceRelationId, (oid), (role))
#define serm_server_aclcheck(oid, role) object_aclcheck(ForeignServerRelationId, (oid), (role), ACL_USAGE)
#else
#define serm_owns_schema(oid, role) pg_namespace_ownercheck((oid), (role))
#define serm_server_aclcheck(oid, role) pg_foreign_server_aclcheck((oid), (role), ACL_USAGE)
#endif

/* 16 can also hand the error of a bad name back. */
#if PG_VERSION_NUM >= 160000
#define serm_qualified_name(name) stringToQualifiedNameList((name), NULL)
#else
#define serm_qualified_name(name) stringToQualifiedNameList(name)
#endif

/* 16 keeps what belongs to settings in a context, and frees there what a check hook hands over. */
#if PG_VERSION_NUM >= 160000
#define serm_guc_alloc(size) guc_malloc(LOG, (size))
#define serm_guc_free(block) guc_free(block)
#else
#define serm_guc_alloc(size) malloc(size)
#define serm_guc_free(block) free(block)
#endif

/* 18 writes it before all else of a declaration. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn _Noreturn
#endif

#endif
