# Weighing agents with a worker, crashes in the middle of settling, and extra paths over HTTP.
use strict;
use warnings;

use IPC::Run qw(start);
use MockEndpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $mock = MockEndpoint->start;
my $port = $mock->port;

my $node = PostgreSQL::Test::Cluster->new('judges');
$node->init;
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'serm, pg_stat_statements'
pg_stat_statements.track = all
serm.launcher_interval = 1
max_worker_processes = 16
restart_after_crash = on
fsync = off
});
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION serm; CREATE EXTENSION pg_stat_statements');

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub wait_until
{
	my ($condition, $what) = @_;
	for (1 .. 600)
	{
		my ($code, $out) = $node->psql('postgres', $condition);
		return pass($what) if defined $code && $code == 0 && $out eq 't';
		usleep(50_000);
	}
	return fail($what);
}

# --- two servers, gold, nobody waits: the worker weighs and settles
sql(qq{SELECT serm.create_model('weighed', options => '{"test_share": 0, "gold_rate": 0.25, "extra_paths": 2, "min_reliability": -1}');
	CREATE SERVER plain FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:$port/v1', model 'mock', paths '1');
	CREATE SERVER noisy FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:$port/noisy/v1', model 'mock', paths '3');
	SELECT serm.add_agent('weighed', 'plain'), serm.add_agent('weighed', 'noisy');
	INSERT INTO serm.judgment (model, query, doc_id, doc, grade)
		SELECT 'weighed', 'blue pillow ' || i, 'g' || i, (ARRAY['a blue pillow ' || i, 'a blue pillow', 'a blue chair', 'nothing'])[i % 4 + 1], 3 - i % 4
		FROM generate_series(1, 60) AS i;
	INSERT INTO serm.sample (model, query, doc_id, doc)
		SELECT 'weighed', 'blue pillow ' || i, 'd' || i, (ARRAY['a blue pillow ' || i, 'a blue pillow', 'a blue chair', 'nothing'])[i % 4 + 1]
		FROM generate_series(1, 120) AS i});
# So slowly that what is asked about again comes back while others are still being settled.
sql(q{CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END$$;
	CREATE TRIGGER slowly BEFORE INSERT ON serm.judgment FOR EACH ROW WHEN (NEW.source = 'agents') EXECUTE FUNCTION slowly();
	CALL serm.annotate('weighed', false)});
wait_until(q{SELECT count(*) = 150 AND bool_and(state NOT IN ('waiting', 'annotating')) FROM serm.sample}, 'the worker settles all, gold included');
is(sql(q{SELECT count(*), count(DISTINCT (query, doc_id)), count(target) FROM serm.judgment WHERE source = 'agents'}), '120|120|120',
	'each pair has one judgment with a target');
is(sql(q{SELECT count(*) FILTER (WHERE gold BETWEEN 15 AND 30), max(gold) FROM serm.reliability}), '2|30', 'gold has told about both');
is(sql(q{SELECT reliability > 0.4 AND gold_kappa > 0.95 FROM serm.reliability WHERE agent = 'plain'}), 't', 'the plain one is right');
is(sql(q{SELECT (SELECT weight FROM serm.reliability WHERE agent = 'plain') > (SELECT weight FROM serm.reliability WHERE agent = 'noisy')}), 't', 'and has more say');
cmp_ok(sql(q{SELECT avg((round(j.grade) = 3 - substr(j.doc_id, 2)::int % 4)::int) FROM serm.judgment j WHERE source = 'agents'}), '>', 0.8, 'labels are right');

# --- where they differed both were asked twice more, once
my $extra = sql(q{SELECT count(*) FROM serm.vote WHERE extra});
cmp_ok($extra, '>', 0, 'more paths were asked for');
is(sql(q{SELECT count(*) FROM (SELECT sample FROM serm.vote GROUP BY sample HAVING count(*) FILTER (WHERE extra) NOT IN (0, 4)) x}), '0',
	'two of each agent');
is(sql(q{SELECT count(*) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE v.extra AND s.agents = '{gold}'}), '0', 'never for gold');

# --- the server crashes while samples are being settled: none is lost, none is settled twice
sql(q{CREATE TABLE before AS SELECT doc_id, grade, target FROM serm.judgment WHERE source = 'agents';
	DELETE FROM serm.judgment WHERE source = 'agents';
	UPDATE serm.sample SET state = 'annotating', grade = NULL WHERE agents <> '{gold}'});
for my $delay (300_000, 900_000, 1_500_000)
{
	my $call = start([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-c', q{CALL serm.annotate('weighed')} ],
		'>', '/dev/null', '2>', '/dev/null');
	usleep($delay);
	$node->stop('immediate');
	$call->finish;
	$node->start;
}
sql(q{DROP TRIGGER slowly ON serm.judgment; CALL serm.annotate('weighed')});
is(sql(q{SELECT count(*), count(DISTINCT (query, doc_id)) FROM serm.judgment WHERE source = 'agents'}), '120|120', 'no label is lost or there twice');
is(sql(q{SELECT count(*) FROM serm.judgment j JOIN before b USING (doc_id) WHERE source = 'agents' AND (j.grade, j.target) IS DISTINCT FROM (b.grade, b.target)}), '0',
	'and each is what it was');
is(sql(q{SELECT count(*) FROM serm.sample WHERE state IN ('waiting', 'annotating')}), '0', 'nothing is left open');

# --- two samples with votes, far apart: no step reads the texts of those between them, which have none
sql(q{CREATE TABLE product AS SELECT colour || thing AS doc_id, format(E'%s %s\nA %s %s.', colour, thing, colour, thing) AS doc
		FROM unnest('{red,blue,green,black}'::text[]) AS colour, unnest('{shoe,lamp,chair,table,pillow,carpet}'::text[]) AS thing;
	CREATE TABLE impression AS SELECT split_part(q.doc, E'\n', 1) AS query, d.doc_id, now() - i * interval '1 minute' AS shown_at, i AS position, q = d AS clicked
		FROM product q, product d, generate_series(1, 3) AS i;
	CREATE FUNCTION judge(query text, doc text) RETURNS integer LANGUAGE sql IMMUTABLE RETURN CASE WHEN doc LIKE query || '%' THEN 3 ELSE 0 END});
for my $rule ('posterior', 'unanimous')
{
	my $far = "INSERT INTO serm.sample (model, query, doc_id, doc, state) SELECT '$rule', 'blue lamp', state || i, 'blue lamp ' || i, state FROM";
	sql(qq{SET client_min_messages = warning;
		SELECT serm.create_model('$rule', log => 'impression', documents => 'product', options => '{"rule": "$rule", "gold_rate": 0}');
		INSERT INTO serm.judgment (model, query, doc_id, grade)
			SELECT DISTINCT '$rule', query, doc_id, CASE WHEN clicked THEN 3 ELSE 0 END FROM impression WHERE clicked OR doc_id LIKE 'red%';
		CALL serm.train('$rule', '{"epochs": 1, "pretrain_epochs": 0, "heads": 1}');
		SELECT serm.add_agent('$rule', 'judge(text,text)'::regprocedure);
		$far (VALUES ('waiting', 1)) v (state, i);
		$far (SELECT 'settled', generate_series(1, 3000)) v (state, i);
		$far (VALUES ('waiting', 2)) v (state, i);
		CALL serm.annotate('$rule');
		SELECT pg_stat_statements_reset();
		CALL serm.evolve('$rule', '{"budget": 120, "train": {"epochs": 1, "pretrain_epochs": 0, "heads": 1}}')});
	my $voted = sql(qq{SELECT count(*) FROM serm.sample s WHERE model = '$rule' AND EXISTS (SELECT FROM serm.vote v WHERE v.sample = s.id)});
	cmp_ok($voted, '>', 100, "$rule: agents voted on more than one page of samples");
	is(sql(q{SELECT sum(rows), max(rows / calls) <= 100 FROM pg_stat_statements WHERE query LIKE 'SELECT s.id, s.query, s.doc FROM serm.sample%'}), "$voted|t",
		'the model sees each of them once, and no other');
}

$node->stop;
done_testing();
