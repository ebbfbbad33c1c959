/*
 * What readers of replies share: strict JSON out of untrusted bytes (RFC 8259,
 * bounded in depth), and members that are there once. Only files of this room
 * that know cJSON include it.
 */
#ifndef SERM_CORE_AGENT_REPLY_PARTS_H
#define SERM_CORE_AGENT_REPLY_PARTS_H

#include <cjson/cJSON.h>

#include "core/agent/reply.h"

/*
 * The body of a reply as JSON; NULL with a reason. To be freed with cJSON_Delete(). The status is not OK only
 * when memory is out.
 */
extern SermStatus serm_reply_json(
    SermText body, SermArena *arena, cJSON **json, SermReplyReason *reason, SermError *error);
/* The only member of that name; NULL when there is none or more than one. */
extern const cJSON *serm_reply_member(const cJSON *object, const char *name);
/* A count of tokens of `usage`; -1: not told. */
extern int32_t serm_reply_tokens(const cJSON *body, const char *name);

#endif
