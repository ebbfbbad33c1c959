#include "core/agent/vote.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/base/utf8.h"

#define MEDOID_WORDS_MAX 400
/* Shares are quotients of small counts: 3 of 5 must reach 0.6. */
#define SHARE_SLACK 1e-9

bool
serm_vote_rule_parse(const char *name, SermVoteRule *rule)
{
	if (strcmp(name, "unanimous") == 0)
		*rule = SERM_VOTE_UNANIMOUS;
	else if (strcmp(name, "quorum") == 0)
		*rule = SERM_VOTE_QUORUM;
	else if (strcmp(name, "weighted") == 0)
		*rule = SERM_VOTE_WEIGHTED;
	else if (strcmp(name, "posterior") == 0)
		*rule = SERM_VOTE_POSTERIOR;
	else
		return false;
	return true;
}

typedef struct Tally {
	uint32_t counts[SERM_VOTE_GRADES_MAX];
	uint32_t leading;
	bool tied;
} Tally;

static void
find_leader(Tally *tally, uint32_t grade_count)
{
	tally->leading = 0;
	tally->tied = false;
	for (uint32_t grade = 1; grade < grade_count; grade++) {
		if (tally->counts[grade] > tally->counts[tally->leading]) {
			tally->leading = grade;
			tally->tied = false;
		} else if (tally->counts[grade] == tally->counts[tally->leading])
			tally->tied = true;
	}
}

static int
compare_hashes(const void *left, const void *right)
{
	const uint64_t a = *(const uint64_t *) left, b = *(const uint64_t *) right;

	return (a > b) - (a < b);
}

/* The distinct words of a rationale as sorted hashes. Words are what white space separates: good enough to
 * compare. */
static uint32_t
word_set(SermText text, uint64_t *hashes)
{
	uint32_t count = 0, kept = 0;
	size_t at = 0;

	while (at < text.length && count < MEDOID_WORDS_MAX) {
		size_t start;

		while (at < text.length && (unsigned char) text.bytes[at] <= ' ')
			at++;
		start = at;
		while (at < text.length && (unsigned char) text.bytes[at] > ' ')
			at++;
		if (at > start)
			hashes[count++] = serm_hash_bytes(text.bytes + start, at - start, 0);
	}
	qsort(hashes, count, sizeof(*hashes), compare_hashes);
	for (uint32_t i = 0; i < count; i++)
		if (kept == 0 || hashes[i] != hashes[kept - 1])
			hashes[kept++] = hashes[i];
	return kept;
}

static double
jaccard(const uint64_t *a, uint32_t a_count, const uint64_t *b, uint32_t b_count)
{
	uint32_t i = 0, j = 0, common = 0;

	while (i < a_count && j < b_count) {
		if (a[i] == b[j]) {
			common++;
			i++;
			j++;
		} else if (a[i] < b[j])
			i++;
		else
			j++;
	}
	return a_count + b_count == common ? 0.0 : (double) common / (a_count + b_count - common);
}

/* The medoid by word overlap among the paths that gave `grade`: the first one when nothing tells them apart.
 */
static SermStatus
find_medoid(SermAgentVote *agent, int32_t grade, SermArena *arena, SermError *error)
{
	uint64_t **sets = serm_arena_array(arena, agent->path_count, sizeof(*sets));
	uint32_t *counts = serm_arena_array(arena, agent->path_count, sizeof(*counts));
	double best = -1.0;

	if (sets == NULL || counts == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while counting votes");
	for (uint32_t i = 0; i < agent->path_count; i++) {
		if (agent->paths[i].grade != grade)
			continue;
		sets[i] = serm_arena_array(arena, MEDOID_WORDS_MAX, sizeof(uint64_t));
		if (sets[i] == NULL)
			return serm_fail(error, SERM_ERR_MEMORY, "out of memory while counting votes");
		counts[i] = word_set(agent->paths[i].rationale, sets[i]);
	}
	for (uint32_t i = 0; i < agent->path_count; i++) {
		double sum = 0.0;

		if (sets[i] == NULL)
			continue;
		for (uint32_t j = 0; j < agent->path_count; j++)
			if (j != i && sets[j] != NULL)
				sum += jaccard(sets[i], counts[i], sets[j], counts[j]);
		if (sum > best) {
			best = sum;
			agent->supporter = i;
		}
	}
	return SERM_OK;
}

SermStatus
serm_vote_agent(
    SermAgentVote *agent, uint32_t grade_count, double share_min, SermArena *arena, SermError *error)
{
	Tally tally = {{0}, 0, false};

	if (grade_count < 2 || grade_count > SERM_VOTE_GRADES_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "cannot count votes over %u grades", grade_count);
	agent->grade = SERM_VOTE_NONE;
	agent->share = 0.0;
	agent->valid = 0;
	agent->supporter = 0;
	for (uint32_t i = 0; i < agent->path_count; i++) {
		if (agent->paths[i].grade < 0)
			continue;
		if (agent->paths[i].grade >= (int32_t) grade_count)
			return serm_fail(
			    error, SERM_ERR_INVALID, "a vote for grade %d of %u", agent->paths[i].grade, grade_count);
		tally.counts[agent->paths[i].grade]++;
		agent->valid++;
	}
	if (agent->valid == 0)
		return SERM_OK;
	find_leader(&tally, grade_count);
	agent->share = (double) tally.counts[tally.leading] / agent->path_count;
	if (tally.tied || agent->share + SHARE_SLACK < share_min)
		return SERM_OK;
	agent->grade = (int32_t) tally.leading;
	return find_medoid(agent, agent->grade, arena, error);
}

static void
write_agent_opinion(SermWriter *writer, const SermAgentVote *agent)
{
	serm_writer_bytes(writer, agent->name.bytes, agent->name.length);
	if (agent->grade != SERM_VOTE_NONE)
		serm_writer_format(writer, " says %d", agent->grade);
	else if (agent->valid == 0)
		serm_writer_text(writer, " failed");
	else
		serm_writer_text(writer, " abstains");
}

/* "judge_a says 3, judge_b says 1": all that a reviewer needs to see first. */
static SermStatus
write_reason(
    const SermAgentVote *agents, uint32_t agent_count, SermArena *arena, SermText *reason, SermError *error)
{
	SermWriter writer;

	serm_writer_init(&writer, arena);
	for (uint32_t i = 0; i < agent_count; i++) {
		if (i > 0)
			serm_writer_text(&writer, ", ");
		write_agent_opinion(&writer, &agents[i]);
	}
	if (agent_count == 0)
		serm_writer_text(&writer, "no agent voted");
	return serm_writer_finish(&writer, reason, error);
}

static SermStatus
fuse_rationales(const SermAgentVote *agents, uint32_t agent_count, int32_t grade, SermArena *arena,
    SermText *fused, SermError *error)
{
	SermWriter writer;
	SermStatus status;

	serm_writer_init(&writer, arena);
	for (uint32_t i = 0; i < agent_count; i++) {
		SermText rationale;

		if (agents[i].grade != grade)
			continue;
		rationale = agents[i].paths[agents[i].supporter].rationale;
		if (rationale.length == 0)
			continue;
		if (writer.length > 0)
			serm_writer_text(&writer, "\n");
		serm_writer_bytes(&writer, agents[i].name.bytes, agents[i].name.length);
		serm_writer_text(&writer, ": ");
		serm_writer_bytes(&writer, rationale.bytes, rationale.length);
	}
	status = serm_writer_finish(&writer, fused, error);
	if (status == SERM_OK)
		fused->length = serm_utf8_clip(fused->bytes, fused->length, SERM_VOTE_RATIONALE_BYTES_MAX);
	return status;
}

SermStatus
serm_vote_rationale(const SermAgentVote *agents, uint32_t agent_count, uint32_t grade, SermArena *arena,
    SermText *rationale, SermError *error)
{
	int32_t nearest = SERM_VOTE_NONE;

	for (uint32_t i = 0; i < agent_count; i++)
		if (agents[i].grade != SERM_VOTE_NONE &&
		    (nearest == SERM_VOTE_NONE ||
		        abs(agents[i].grade - (int32_t) grade) < abs(nearest - (int32_t) grade)))
			nearest = agents[i].grade;
	*rationale = (SermText){"", 0};
	return nearest == SERM_VOTE_NONE ? SERM_OK
	                                 : fuse_rationales(agents, agent_count, nearest, arena, rationale, error);
}

SermStatus
serm_vote_agree(const SermAgentVote *agents, uint32_t agent_count, uint32_t grade_count, SermVoteRule rule,
    double quorum, SermArena *arena, SermVerdict *verdict, SermError *error)
{
	Tally tally = {{0}, 0, false};
	const double needed = rule == SERM_VOTE_UNANIMOUS ? 1.0 : quorum;
	uint32_t valid = 0;

	memset(verdict, 0, sizeof(*verdict));
	verdict->grade = SERM_VOTE_NONE;
	verdict->reason.bytes = verdict->rationale.bytes = "";
	if (grade_count < 2 || grade_count > SERM_VOTE_GRADES_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "cannot count votes over %u grades", grade_count);
	if (!(needed > 0.0 && needed <= 1.0))
		return serm_fail(error, SERM_ERR_INVALID, "a quorum is a share of the agents: above 0, at most 1");
	for (uint32_t i = 0; i < agent_count; i++) {
		valid += agents[i].valid;
		if (agents[i].grade >= 0 && agents[i].grade < (int32_t) grade_count)
			tally.counts[agents[i].grade]++;
	}
	find_leader(&tally, grade_count);
	if (agent_count > 0)
		verdict->share = (double) tally.counts[tally.leading] / agent_count;
	if (valid > 0 && !tally.tied && verdict->share + SHARE_SLACK >= needed) {
		verdict->kind = SERM_VERDICT_AGREED;
		verdict->grade = (int32_t) tally.leading;
		return fuse_rationales(agents, agent_count, verdict->grade, arena, &verdict->rationale, error);
	}
	verdict->kind = valid == 0 ? SERM_VERDICT_FAILED : SERM_VERDICT_DISPUTED;
	return write_reason(agents, agent_count, arena, &verdict->reason, error);
}
