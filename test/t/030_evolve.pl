# Training and rounds as procedures: what they refuse, what they hold while computing, how fast they can be
# stopped, and that a round survives the death of its session in every phase.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = PostgreSQL::Test::Cluster->new('evolve');
$node->init;
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'serm, pg_cron'
cron.database_name = 'postgres'
max_worker_processes = 16
restart_after_crash = on
fsync = off
});
$node->start;

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', "SET client_min_messages = warning; $sql");
}

# The SQLSTATE of a statement at the top level, '' when it succeeds.
sub state_of
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY sqlstate\n$sql", on_error_stop => 0);
	return $err =~ /ERROR:\s+([0-9A-Z]{5})/ ? $1 : '';
}

# Statements, one after the other, in a session of its own that runs on.
sub start_sql
{
	my @commands = map { ('-c', $_) } @_;
	my $session = { out => '', err => '' };
	$session->{run} = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('postgres'), @commands ],
		'<', \undef, '>', \$session->{out}, '2>', \$session->{err}, IPC::Run::timeout(120));
	return $session;
}

sub finish_sql
{
	my ($session) = @_;
	eval { $session->{run}->finish };
	return $session->{err};
}

sub wait_until
{
	my ($condition, $what, $session) = @_;
	for (1 .. 600)
	{
		return if sql("SELECT $condition") eq 't';
		eval { $session->{run}->pump_nb } if $session;
		die "the session ended while waiting for $what: $session->{err}" if $session && !$session->{run}->pumpable;
		usleep(50_000);
	}
	die "timed out waiting for $what";
}

# Kill -9 takes every session down with it; come back when the server does.
sub kill_backend
{
	my ($pid) = @_;
	my $started = sql('SELECT pg_postmaster_start_time()') . sql('SELECT pid FROM pg_stat_activity WHERE backend_type = \'checkpointer\'');
	kill('KILL', $pid);
	for (1 .. 600)
	{
		my ($rc, $out) = eval { $node->psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'}) };
		return if defined $rc && $rc == 0 && $out ne '' && index($started, $out) < 0;
		usleep(50_000);
	}
	die 'the server did not come back';
}

# --- a shop: 8 x 6 products, a log in which every query sees twelve of them, and two judges with errors of their own
sql(q{
CREATE EXTENSION serm;
CREATE TABLE product (doc_id text PRIMARY KEY, doc text);
INSERT INTO product
	SELECT colour || '-' || thing, format(E'%s %s\nA %s %s for your home, made to last.', colour, thing, colour, thing)
	  FROM unnest('{red,blue,green,black,white,yellow,pink,grey}'::text[]) AS colour, unnest('{shoe,lamp,chair,table,pillow,carpet}'::text[]) AS thing;
CREATE TABLE truth AS
	SELECT replace(q.doc_id, '-', ' ') AS query, d.doc_id, d.doc, ('x' || substr(md5(q.doc_id || d.doc_id), 1, 6))::bit(24)::int AS n,
		CASE WHEN q.doc_id = d.doc_id THEN 3 WHEN split_part(q.doc_id, '-', 2) = split_part(d.doc_id, '-', 2) THEN 2
			WHEN split_part(q.doc_id, '-', 1) = split_part(d.doc_id, '-', 1) THEN 1 ELSE 0 END AS grade
	  FROM product q, product d;
CREATE INDEX ON truth (query, md5(doc));
CREATE TABLE impression AS
	SELECT query, doc_id, '2026-01-01'::timestamptz + i * interval '1 minute' AS shown_at, 1 + n % 8 AS position,
		(n + i) % 5 < grade AS clicked, CASE WHEN (n + i) % 5 < grade THEN 1000 * (n % 90) END AS dwell_ms
	  FROM truth, generate_series(1, 3) AS i WHERE grade = 3 OR n % 4 = 0;
CREATE TABLE pace (seconds float8);
INSERT INTO pace VALUES (0);
CREATE FUNCTION judge_a(query text, doc text) RETURNS integer LANGUAGE sql VOLATILE STRICT AS
	$$SELECT least(3, t.grade + (t.n % 10 = 0)::int) FROM public.truth t, public.pace p, LATERAL pg_sleep(p.seconds * (t.n % 3 = 0)::int) s
	   WHERE t.query = $1 AND md5(t.doc) = md5($2)$$;
CREATE FUNCTION judge_b(query text, doc text) RETURNS integer LANGUAGE sql VOLATILE STRICT AS
	$$SELECT greatest(0, t.grade - (t.n % 7 = 0)::int) FROM public.truth t WHERE t.query = $1 AND md5(t.doc) = md5($2)$$;
SELECT serm.create_model('shop', log => 'impression', documents => 'product', options => '{"rule": "unanimous", "gold_rate": 0}');
SELECT serm.create_model('empty', log => 'impression', documents => 'product', options => '{"rule": "unanimous", "gold_rate": 0}');
});

# --- what is refused
is(state_of(q{CALL serm.train('nobody')}), '42704', 'train: an unknown model');
sql(q{SELECT serm.create_model('void')});
is(state_of(q{CALL serm.train('void')}), '55000', 'train: neither judgments nor documents');
is(state_of(q{CALL serm.pretrain('void')}), '55000', 'pretrain: no documents');
is(state_of("BEGIN;\nCALL serm.pretrain('empty');"), '2D000', 'pretrain: not inside a transaction block');
sql(q{SELECT serm.drop_model('void')});
is(state_of("BEGIN;\nCALL serm.train('shop');"), '2D000', 'train: not inside a transaction block');
for my $options ('{"epoch": 3}', '{"epochs": "3"}', '{"epochs": 2.5}', '{"heads": 0}', '{"heads": 17}', '{"dropout": 1}',
	'{"learning_rate": 0}', '{"seed": -1}', '{"promote": 1}', '[1]')
{
	is(state_of("CALL serm.train('empty', '$options')"), '22023', "train: option $options");
}
sql(q{INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'empty', query, doc_id, 1 FROM truth WHERE n % 20 = 0});
is(state_of(q{CALL serm.train('empty')}), '55000', 'train: one grade only');
is(sql(q{SELECT count(*) FROM serm.version}) . sql(q{SELECT count(*) FROM serm.progress}), '00', 'nothing is stored or in progress');
is(state_of(q{CALL serm.evolve('shop')}), '55000', 'evolve: no active version');
# People have graded half of the queries.
sql(q{INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'shop', query, doc_id, grade FROM truth
	WHERE (grade > 0 OR n % 6 = 0) AND (serm.split_of(query) = 'test' OR hashtext(query) % 2 = 0)});
sql(q{CALL serm.train('shop', '{"epochs": 2, "pretrain_epochs": 1}')});
is(state_of(q{CALL serm.evolve('shop')}), '55000', 'evolve: no agents');
sql(q{SELECT serm.create_model('deaf', options => '{"rule": "unanimous", "gold_rate": 0}'); INSERT INTO serm.judgment (model, query, doc, grade) SELECT 'deaf', query, doc, grade FROM truth WHERE n % 9 = 0});
sql(q{CALL serm.train('deaf', '{"epochs": 1, "pretrain_epochs": 1, "promote": null}')});
is(sql(q{SELECT active FROM serm.model WHERE name = 'deaf'}), '1', 'train: promote null is the default: the first version is active');
is(state_of(q{CALL serm.evolve('deaf')}), '55000', 'evolve: no search log');
sql(q{SELECT serm.drop_model('deaf'), serm.drop_model('empty')});
sql(q{SELECT serm.add_agent('shop', 'judge_a(text,text)'::regprocedure), serm.add_agent('shop', 'judge_b(text,text)'::regprocedure)});
sql(q{UPDATE serm.model SET options = options || '{"test_share": 0}' WHERE name = 'shop'});
is(state_of(q{CALL serm.evolve('shop')}), '55000', 'evolve: no queries to test with');
sql(q{UPDATE serm.model SET options = options || '{"test_share": 0.2}' WHERE name = 'shop'});
is(state_of("BEGIN;\nCALL serm.evolve('shop');"), '2D000', 'evolve: not inside a transaction block');
for my $options ('{"bugdet": 3}', '{"budget": 0}', '{"mine": 1}', '{"mine": {"tau": 1}}', '{"train": {"promote": true}}', '{"train": {"epoch": 1}}',
	'{"gate": {"margin": -1}}', '{"gate": {"level": 1}}', '{"gate": {"recent": "maybe"}}', '{"gate": {"recent": true}}',
	'{"gate": {"recent_rounds": 0}}', '{"gate": {"recent_min_queries": 0}}', '[]')
{
	is(state_of("CALL serm.evolve('shop', '$options')"), '22023', "evolve: option $options");
}
is(sql(q{SELECT count(*) FROM serm.round}), '0', 'none of them began a round');

# --- what training holds while it computes, and how it ends
my $long = q{CALL serm.train('shop', '{"epochs": 1000}')};
my $session = start_sql($long);
wait_until(q{count(*) = 1 FROM serm.progress WHERE phase = 'training' AND step > 0}, 'training', $session);
my $pid = sql(q{SELECT pid FROM serm.progress});
my $free = 0;
for (1 .. 20)
{
	# A progress row is a short transaction: a look may hit one.
	$free += sql("SELECT (backend_xmin IS NULL AND backend_xid IS NULL AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = $pid
		AND l.locktype <> 'virtualxid'))::int FROM pg_stat_activity WHERE pid = $pid");
}
cmp_ok($free, '>=', 15, "training holds no snapshot, transaction id or lock ($free of 20 looks)");
is(sql(q{SELECT model || ' ' || (loss > 0) || ' ' || (per_second > 0) || ' ' || steps FROM serm.progress}), 'shop true true 1000', 'serm.progress shows it');
my $before = time;
sql("SELECT pg_cancel_backend($pid)");
my $error = finish_sql($session);
my $took = time - $before;
like($error, qr/57014/, 'it can be cancelled');
cmp_ok($took, '<', 1.5, sprintf('at once (%.0f ms with two sessions started)', $took * 1000));
is(sql(q{SELECT count(*) FROM serm.progress}), '0', 'its progress is gone');
is(sql(q{SELECT count(*) FROM serm.version}), '1', 'and it stored no version');

# A model of the same name is another model.
my $copy = q{INSERT INTO serm.judgment (model, query, doc, grade) SELECT 'twin', query, doc, least(grade, 1) FROM truth WHERE n % 9 = 0};
sql(qq{SELECT serm.create_model('twin', options => '{"rule": "unanimous", "gold_rate": 0}'); $copy});
$session = start_sql(q{CALL serm.train('twin', '{"epochs": 1000}')});
wait_until(q{count(*) = 1 FROM serm.progress WHERE phase = 'training' AND step > 0}, 'training of the twin', $session);
sql(qq{SELECT serm.drop_model('twin'); SELECT serm.create_model('twin', grades => '{no,yes}'); $copy});
like(finish_sql($session), qr/42704/, 'a model that was dropped and made anew while it was trained does not get the version');
is(sql(q{SELECT count(*) FROM serm.version WHERE model = 'twin'}), '0', 'nothing was stored for it');
# A text that is computed, not stored, is as long as it is in memory: what no model reads must not count.
sql(q{CREATE VIEW long_product AS SELECT doc_id, doc || repeat(' lorem ipsum', 80000) AS doc FROM product;
	SELECT serm.drop_model('twin'), serm.create_model('twin', documents => 'long_product');
	INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'twin', query, doc_id, grade FROM truth WHERE n % 19 = 0});
is(state_of(q{SET serm.train_memory = 160; CALL serm.train('twin', '{"epochs": 1, "pretrain_epochs": 0}')}), '', 'training keeps only what models read of a long document');
is(sql(q{SELECT serm.check_version('twin', 1)}), 't', 'and serves what was trained on it');
sql(q{SELECT serm.drop_model('twin')});

$session = start_sql(q{SET statement_timeout = '700ms'}, $long);
like(finish_sql($session), qr/57014/, 'statement_timeout ends it too');
# Its session lives on, idle. A role that may not see what it does must not be told that it trains.
sql(q{CREATE ROLE analyst LOGIN; SELECT serm.grant_access('analyst', 'analyse')});
my $failed = $node->background_psql('postgres', on_error_stop => 0);
$failed->query(q{SET statement_timeout = '700ms'});
$failed->query($long);
is(sql(q{SELECT count(*) > 0 FROM serm._progress}) . sql(q{SET ROLE analyst; SELECT count(*) FROM serm.progress}), 't0', 'an error leaves no progress to be seen by anybody');
$failed->quit;
$session = start_sql($long);
wait_until(q{count(*) = 1 FROM serm.progress WHERE phase = 'training' AND step > 0}, 'training', $session);
is(sql(q{SET ROLE analyst; SELECT count(*) FROM serm.progress}), '1', 'while it runs, everybody of level analyse sees it');
sql(q{SELECT pg_cancel_backend(pid) FROM serm.progress});
finish_sql($session);

$session = start_sql($long);
wait_until(q{count(*) = 1 FROM serm.progress WHERE phase = 'training'}, 'training', $session);
$node->stop('immediate');
finish_sql($session);
$node->start;
is(sql(q{SELECT count(*) FROM serm.progress}), '0', 'after an immediate stop nothing is in progress');
is(sql(q{SELECT count(*) || ' ' || max(active) FROM serm.version, serm.model}), '1 1', 'the active version is what it was');
is(sql(q{SELECT serm.check_version('shop', 1)}), 't', 'and serves what was trained');

# --- OpenBLAS, where it is asked for, comes into the session that trains, with one thread
my $trainer = $node->background_psql('postgres');
$trainer->query_safe(q{SET client_min_messages = warning});
$trainer->query_safe(q{SET serm.blas = on});
$trainer->query_safe(q{CALL serm.train('shop', '{"epochs": 1, "pretrain_epochs": 1}')});
like(sql(q{SELECT config ->> 'gemm' FROM serm.version WHERE version = 2}), qr/^OpenBLAS /, 'serm.blas trains with OpenBLAS');
is(sql(q{SELECT serm.check_version('shop', 2)}), 't', 'and another session serves, bit for bit, what it trained');
my @threads = glob('/proc/' . $trainer->query_safe('SELECT pg_backend_pid()') . '/task/*');
is(scalar @threads, 1, 'it brought no thread');
$trainer->quit;
my $server = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
@threads = glob("/proc/$server/task/*");
is(scalar @threads, 1, 'least of all into the postmaster');
sql(q{DELETE FROM serm.version WHERE version = 2});

# --- kill -9 in every phase: each time a session dies, the next call goes on
my $options = q{{"budget": 120, "train": {"epochs": 3, "pretrain_epochs": 1}, "gate": {"margin": 1, "min_queries": 2, "recent": null}}};

# Mining: the log becomes a view that stalls while somebody holds a lock.
sql(q{ALTER TABLE impression RENAME TO impression_table;
	CREATE FUNCTION stall() RETURNS boolean LANGUAGE plpgsql VOLATILE AS
		$$BEGIN IF EXISTS (SELECT FROM public.pace WHERE seconds < 0) THEN PERFORM pg_sleep(60); END IF; RETURN true; END$$;
	CREATE VIEW impression AS SELECT t.* FROM impression_table t WHERE (SELECT stall())});
sql(q{UPDATE serm.model SET log = 'impression' WHERE name = 'shop'});
sql(q{UPDATE pace SET seconds = -1});
$session = start_sql("CALL serm.evolve('shop', '$options')");
wait_until(q{count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'}, 'mining', $session);
is(sql(q{SELECT phase || round FROM serm.round}), 'mining1', 'the round says that it mines');

# Meanwhile: one session at a time.
is(state_of(q{CALL serm.evolve('shop')}), '55P03', 'another session cannot run a round of the same model');
$pid = sql(q{SELECT pid FROM serm.progress WHERE phase = 'mining'});
kill_backend($pid);
finish_sql($session);
is(sql(q{SELECT string_agg(phase || round, ',') FROM serm.round}), 'mining1', 'killed while mining: the round stands where it stood');
is(sql(q{SELECT count(*) FROM serm.sample}), '0', 'with no sample');
sql(q{UPDATE pace SET seconds = 0.03});

# Annotating: some answers are in, some are not. No options: those of the round count.
$session = start_sql(q{CALL serm.evolve('shop')});
wait_until(q{count(*) >= 100 FROM serm.vote}, 'the first votes', $session);
$pid = sql(q{SELECT pid FROM serm.progress WHERE phase = 'annotating'});
my $samples = sql(q{SELECT count(*) || ' ' || md5(string_agg(query || doc_id, ',' ORDER BY id)) FROM serm.sample});
kill_backend($pid);
finish_sql($session);
is(sql(q{SELECT string_agg(phase || round, ',') FROM serm.round}), 'annotating1', 'killed while annotating');
cmp_ok(sql(q{SELECT count(*) FROM serm.vote}), '>=', 100, 'the votes are kept');
sql(q{CREATE TABLE kept AS SELECT sample, agent, path, at FROM serm.vote; UPDATE pace SET seconds = 0});

# Training: long enough to be killed in.
$session = start_sql(q{CALL serm.evolve('shop', '{"budget": 7, "seed": 9, "mine": {"tau_c": 1.1}, "train": {"epochs": 1000}}')});
wait_until(q{count(*) = 1 FROM serm.progress WHERE phase = 'training' AND step > 0}, 'training in the round', $session);
is(sql(q{SELECT count(*) || ' ' || md5(string_agg(query || doc_id, ',' ORDER BY id)) FROM serm.sample}), $samples, 'the samples are those that were mined');
is(sql(q{SELECT count(*) FROM kept LEFT JOIN serm.vote USING (sample, agent, path, at) WHERE grade IS NULL}), '0', 'no vote was lost or asked for again');
is(sql(q{SELECT count(*) FROM serm.vote}), 2 * sql(q{SELECT count(*) FROM serm.sample}), 'every agent has answered once for every sample');
$pid = sql(q{SELECT pid FROM serm.progress WHERE phase = 'training'});
my $judgments = sql(q{SELECT count(*) || ' ' || sum(id) FROM serm.judgment});
kill_backend($pid);
finish_sql($session);
is(sql(q{SELECT phase || coalesce(candidate::text, '') FROM serm.round}), 'training', 'killed while training: no candidate');
is(sql(q{SELECT options -> 'train' ->> 'epochs' FROM serm.round}), '1000', 'the options of the later call were stored');
is(sql(q{SELECT options -> 'train' @> '{"pretrain_epochs": 1, "seed": 9}' AND options -> 'gate' @> '{"margin": 1, "min_queries": 2}' FROM serm.round}), 't',
	'laid over those of the first one');
is(sql(q{SELECT options @> '{"budget": 120, "mine": {"tau_c": 1.5}}' AND options -> 'mine' ->> 'seed' <> '9' FROM serm.round}), 't',
	'what mining used stays on record');

# Gating: somebody locks the history of deployments, so the decision cannot be stored.
my $holder = $node->background_psql('postgres');
$holder->query_safe(q{BEGIN; LOCK TABLE serm.deployment IN EXCLUSIVE MODE});
$session = start_sql(q{CALL serm.evolve('shop', '{"train": {"epochs": 12, "pretrain_epochs": 1}}')});
wait_until(q{count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'CALL serm.evolve%'}, 'the decision', $session);
is(sql(q{SELECT phase || candidate FROM serm.round}), 'gating2', 'a candidate waits for the decision');
$pid = sql(q{SELECT pid FROM serm.progress WHERE phase = 'gating'});
kill_backend($pid);
finish_sql($session);
eval { $holder->quit };
is(sql(q{SELECT r.phase || r.candidate || v.status FROM serm.round r JOIN serm.version v ON v.version = r.candidate}), 'gating2candidate',
	'killed while gating: nothing is decided');
sql(q{CALL serm.evolve('shop')});
is(sql(q{SELECT phase || candidate FROM serm.round}), 'promoted2', 'the round came to its end');
is(sql(q{SELECT (finished IS NOT NULL) || ' ' || decision || ' ' || (metrics -> 'gate' ->> 'rule') FROM serm.round}), 'true promoted passed', 'by the gate');
is(sql(q{SELECT string_agg(k, ' ' ORDER BY k) FROM serm.round, jsonb_object_keys(timings) k}), 'annotating gating mining training', 'every phase has its time');
is(sql(q{SELECT (counts ->> 'mined')::int = 120 AND (counts ->> 'gold')::int = 50 AND (counts ->> 'voted')::int = 120
	AND (counts ->> 'agreed')::int + (counts ->> 'disputed')::int = 120 AND (counts ->> 'judgments')::int = 120 FROM serm.round}), 't', 'the counts add up');
is(sql(q{SELECT count(*) || ' ' || sum(id) FROM serm.judgment}), $judgments, 'no judgment was added twice');
is(sql(q{SELECT count(*) FROM (SELECT FROM serm.judgment WHERE judge = 'posterior' GROUP BY query, doc_id HAVING count(*) > 1) d}), '0', 'nor a soft target');
is(sql(q{SELECT string_agg(version || status, ',' ORDER BY version) FROM serm.version}), '1retired,2active', 'the candidate is active');
is(sql(q{SELECT count(*) FROM serm.deployment WHERE reason LIKE 'round 1: %'}), '1', 'deployed once, with the reason');
is(sql(q{SELECT serm.check_version('shop', 2)}), 't', 'and serves what was trained');

# --- a candidate that people promoted and took back before its gate stays where they left it
sql(q{SELECT serm.rollback('shop'); UPDATE serm.round SET phase = 'gating'});
sql(q{CALL serm.evolve('shop')});
is(sql(q{SELECT phase || ': ' || reason FROM serm.round}), 'rejected: promoted by hand before the gate, and no longer active', 'what people took back is not promoted again');
is(sql(q{SELECT string_agg(version || status, ',' ORDER BY version) FROM serm.version}), '1active,2retired', 'and keeps its status');
sql(q{SELECT serm.promote('shop', 2); UPDATE serm.round SET phase = 'promoted'});

# --- a second round, where there is nothing new, and one that is given up
sql(q{CREATE VIEW nothing AS SELECT * FROM impression WHERE false; UPDATE serm.model SET log = 'nothing' WHERE name = 'shop'; CALL serm.evolve('shop')});
is(sql(q{SELECT phase || ' ' || split_part(reason, ':', 1) FROM serm.round WHERE round = 2}), 'rejected nothing was mined', 'a round without new pairs is rejected');
is(sql(q{SELECT count(*) FROM serm.version}), '2', 'and trains nothing');
sql(q{UPDATE serm.model SET log = 'impression' WHERE name = 'shop'; UPDATE pace SET seconds = -1});
like(finish_sql(start_sql(q{SET statement_timeout = '500ms'}, q{CALL serm.evolve('shop')})), qr/57014/, 'a third one is cancelled while it mines');
sql(q{UPDATE pace SET seconds = 0});
sql(q{CALL serm.evolve('shop', '{"restart": true, "budget": 20, "train": {"epochs": 1, "pretrain_epochs": 1}}')});
is(sql(q{SELECT string_agg(phase, ' ' ORDER BY round) FROM serm.round WHERE round IN (3)}), 'failed', 'and given up');
like(sql(q{SELECT phase FROM serm.round WHERE round = 4}), qr/^(promoted|rejected)$/, 'the next one runs to its end');
is(sql(q{SELECT bool_and(s.status = CASE r.phase WHEN 'promoted' THEN 'active' ELSE 'rejected' END) FROM serm.round r JOIN serm.version s ON s.version = r.candidate
	WHERE r.round = 4}), 't', 'and its candidate has the status that was decided');
is(sql(q{SELECT count(*) FROM serm.version WHERE status = 'active'}), '1', 'one version is active');

# --- from documents and a log alone
sql(q{SELECT serm.create_model('fresh', log => 'impression', documents => 'product', options => '{"rule": "quorum"}');
	SELECT serm.add_agent('fresh', 'judge_a(text,text)'::regprocedure), serm.add_agent('fresh', 'judge_b(text,text)'::regprocedure)});
sql(q{CREATE VIEW catalogue AS SELECT doc_id || i AS doc_id, doc || ' ' || i AS doc FROM product, generate_series(1, 100) i;
	SELECT serm.create_model('slow', documents => 'catalogue')});
$session = start_sql(q{CALL serm.pretrain('slow', '{"pretrain_epochs": 1000}')});
wait_until(q{count(*) = 1 FROM serm.progress WHERE phase = 'pretraining' AND model = 'slow'}, 'pretraining', $session);
$pid = sql(q{SELECT pid FROM serm.progress});
$free = 0;
$free += sql("SELECT (backend_xmin IS NULL AND backend_xid IS NULL)::int FROM pg_stat_activity WHERE pid = $pid") for 1 .. 10;
cmp_ok($free, '>=', 7, "pretrain holds no snapshot and no transaction id ($free of 10 looks)");
sql("SELECT pg_cancel_backend($pid)");
like(finish_sql($session), qr/57014/, 'it can be cancelled');
is(sql(q{SELECT count(*) FROM serm.progress}) . sql(q{SELECT count(*) FROM serm.version WHERE model = 'slow'}), '00', 'and leaves nothing');
sql(q{SELECT serm.drop_model('slow')});
sql(q{CALL serm.pretrain('fresh', '{"pretrain_epochs": 1}')});
is(sql(q{SELECT active FROM serm.model WHERE name = 'fresh'}), '1', 'generation 0 is active');
is(sql(q{SELECT count(*) FROM serm.mine_disagreement('fresh')}), '0', 'its one head disagrees with nobody');
sql(q{CALL serm.evolve('fresh', '{"budget": 60, "train": {"epochs": 2, "pretrain_epochs": 1}}')});
like(sql(q{SELECT phase FROM serm.round WHERE model = 'fresh'}), qr/^(promoted|rejected)$/, 'a round begins with it and runs to its end');
is(sql(q{SELECT candidate FROM serm.round WHERE model = 'fresh'}), '2', 'with a candidate that was trained');
cmp_ok(sql(q{SELECT (counts ->> 'judgments')::int FROM serm.version WHERE model = 'fresh' AND version = 2}), '>', 10, 'on what the agents said');
sql(q{SELECT serm.drop_model('fresh')});

# --- schedules
sql(q{CREATE EXTENSION pg_cron});
my $job = sql(q{SELECT serm.schedule('shop', '0 3 * * 0')});
is(sql(q{SELECT jobid || '|' || schedule || '|' || command || '|' || jobname FROM cron.job}), "$job|0 3 * * 0|CALL serm.evolve('shop')|serm:shop", 'a schedule is a job of pg_cron');
is(sql(q{SELECT serm.schedule('shop', '0 4 * * *', '{"budget": 7}')}), $job, 'another schedule replaces it');
is(sql(q{SELECT schedule || '|' || command FROM cron.job}), q{0 4 * * *|CALL serm.evolve('shop', '{"budget": 7}')}, 'with its options');
is(state_of(q{SELECT serm.schedule('shop', '0 4 * * *', '{"bugdet": 7}')}), '22023', 'a bad option is told now, not at night');
is(state_of(q{SELECT serm.schedule('nobody', '0 4 * * *')}), '42704', 'so is an unknown model');
isnt(state_of(q{SELECT serm.schedule('shop', 'sundays')}), '', 'and a bad time');
is(sql(q{SELECT serm.unschedule('shop')}) . sql(q{SELECT serm.unschedule('shop')}), 'tf', 'it is removed once');
is(sql(q{SELECT count(*) FROM cron.job}), '0', 'and gone');

done_testing();
