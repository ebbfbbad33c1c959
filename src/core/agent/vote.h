/*
 * From votes to a grade, in two levels (SERM, arXiv 2601.09515): the paths of one
 * agent vote, then the agents. A failed path is a vote without a grade: it
 * supports nothing and is never read as a low grade.
 */
#ifndef SERM_CORE_AGENT_VOTE_H
#define SERM_CORE_AGENT_VOTE_H

#include "core/agent/writer.h"

#define SERM_VOTE_GRADES_MAX 10
#define SERM_VOTE_NONE (-1)
#define SERM_VOTE_RATIONALE_BYTES_MAX ((size_t) 4000)

typedef struct SermPath {
	int32_t grade; /* SERM_VOTE_NONE: it failed */
	SermText rationale;
} SermPath;

/* One agent with its paths; `grade`, `share`, `valid` and `supporter` are set by serm_vote_agent. */
typedef struct SermAgentVote {
	SermText name;
	const SermPath *paths;
	uint32_t path_count;
	int32_t grade;  /* SERM_VOTE_NONE: it abstains */
	double share;   /* of all paths, failed ones included, that gave the leading grade */
	uint32_t valid; /* paths with a grade */
	uint32_t
	    supporter; /* the path whose rationale speaks for the agent: a supporting one closest to the others */
} SermAgentVote;

typedef enum SermVoteRule {
	SERM_VOTE_UNANIMOUS, /* every agent gives the same grade */
	SERM_VOTE_QUORUM,    /* at least a share of the agents does, and no other grade has as many */
	SERM_VOTE_WEIGHTED,  /* not by votes but by a consensus: core/stats/consensus.h */
	SERM_VOTE_POSTERIOR,
} SermVoteRule;

typedef enum SermVerdictKind {
	SERM_VERDICT_AGREED,
	SERM_VERDICT_DISPUTED,
	SERM_VERDICT_FAILED, /* not one path of any agent gave a grade */
} SermVerdictKind;

typedef struct SermVerdict {
	SermVerdictKind kind;
	int32_t grade;      /* SERM_VOTE_NONE unless agreed */
	double share;       /* of the agents, for the leading grade */
	SermText reason;    /* why there is no grade; empty when agreed */
	SermText rationale; /* of the agents that support the grade, each under its name; empty unless agreed */
} SermVerdict;

extern bool serm_vote_rule_parse(const char *name, SermVoteRule *rule);

/*
 * Level 1: the leading grade of the paths if its share of all paths is at least
 * `share_min` and no other grade has as many; otherwise the agent abstains.
 */
extern SermStatus serm_vote_agent(
    SermAgentVote *agent, uint32_t grade_count, double share_min, SermArena *arena, SermError *error);

/* Level 2 over agents that have passed level 1, by UNANIMOUS or QUORUM; `quorum` in (0, 1] is used by the
 * latter. */
extern SermStatus serm_vote_agree(const SermAgentVote *agents, uint32_t agent_count, uint32_t grade_count,
    SermVoteRule rule, double quorum, SermArena *arena, SermVerdict *verdict, SermError *error);

/*
 * What the agents that say `grade` have to say for it, each under its name; of those that come nearest to it
 * when nobody says so.
 */
extern SermStatus serm_vote_rationale(const SermAgentVote *agents, uint32_t agent_count, uint32_t grade,
    SermArena *arena, SermText *rationale, SermError *error);

#endif
