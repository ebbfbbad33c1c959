# Functions of users that do not return: judges in the session that annotates, evidence in the worker.
use strict;
use warnings;

use MockEndpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $mock = MockEndpoint->start;
my $port = $mock->port;
my $node = PostgreSQL::Test::Cluster->new('functions');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'serm'\nserm.function_timeout = '200ms'\nfsync = off\n");
$node->start;
sub sql { return $node->safe_psql('postgres', $_[0]); }
sql(q{CREATE EXTENSION serm;
	CREATE FUNCTION judge(query text, doc text) RETURNS integer LANGUAGE plpgsql AS $$BEGIN
		IF doc LIKE 'slow%' THEN PERFORM pg_sleep(600); END IF;
		RETURN 2;
	EXCEPTION WHEN others THEN RETURN 3; END $$;
	CREATE FUNCTION evidence(query text, doc text) RETURNS text LANGUAGE plpgsql AS $$BEGIN
		IF doc LIKE 'slow%' THEN PERFORM pg_sleep(600); END IF;
		RETURN 'KNOWN';
	END $$});

# --- a judge: an error of its vote, while being cancelled is what it was
sql(q{SELECT serm.create_model('judged', options => '{"gold_rate": 0, "rule": "unanimous"}'); SELECT serm.add_agent('judged', 'judge(text,text)'::regprocedure);
	INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'judged', 'q', i, CASE WHEN i % 2 = 0 THEN 'slow' ELSE 'quick' END FROM generate_series(1, 4) i});
my ($code, $out, $err) = $node->psql('postgres', q{SET statement_timeout = '100ms'; CALL serm.annotate('judged')});
like($err, qr/canceling statement due to statement timeout/, 'a call that is cancelled while its judge works ends');
is(sql('SELECT count(*) FROM serm.vote WHERE error IS NOT NULL'), '0', 'and this is no answer');
($code, $out, $err) = $node->psql('postgres', q{SET statement_timeout = '20s'; CALL serm.annotate('judged')});
is($code, 0, 'no judge holds up a call');
is(sql(q{SELECT string_agg(coalesce(grade::text, error), '|' ORDER BY sample) FROM serm.vote}),
	'2|38000: it ran longer than serm.function_timeout (200 ms)|2|38000: it ran longer than serm.function_timeout (200 ms)', 'one that does not return has not answered');
sql(q{SELECT serm.create_model('patient', options => '{"gold_rate": 0, "rule": "unanimous"}');
	CREATE FUNCTION slow(query text, doc text) RETURNS integer LANGUAGE sql AS 'SELECT 1 FROM pg_sleep(0.4)'; SELECT serm.add_agent('patient', 'slow(text,text)'::regprocedure);
	INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('patient', 'q', '1', 'd')});
sql(q{SET serm.function_timeout = 0; CALL serm.annotate('patient')});
is(sql(q{SELECT grade FROM serm.vote WHERE agent = 'slow'}), '1', 'the limit can be taken away');

# --- evidence: the same, and no transaction of the worker lasts as long as all of it
sql(qq{SELECT serm.create_model('shown', options => '{"gold_rate": 0, "rule": "unanimous", "evidence": "evidence"}');
	CREATE SERVER shown FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:$port/v1', model 'mock', paths '1', temperature '0', cache 'false');
	SELECT serm.add_agent('shown', 'shown');
	INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'shown', 'q' || i, i, CASE WHEN i <= 20 THEN 'slow ' ELSE 'quick ' END || i FROM generate_series(1, 30) i;
	CALL serm.annotate('shown', false)});
my ($done, $longest, $started) = (0, 0, time);
while ($done < 30 && time - $started < 30)
{
	my ($votes, $age) = split /\|/, sql(q{SELECT (SELECT count(*) FROM serm.vote WHERE agent = 'shown'),
		(SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) FROM pg_stat_activity WHERE backend_type = 'serm annotator')});
	$done = $votes;
	$longest = $age if $age > $longest;
	usleep(20_000);
}
is(sql(q{SELECT count(grade), count(*) FILTER (WHERE error = '38000: the evidence function failed: 38000: it ran longer than serm.function_timeout (200 ms)') FROM serm.vote WHERE agent = 'shown'}),
	'10|20', 'evidence that does not come is an error of its vote');
cmp_ok($longest, '<', 2.5, "vacuum waits for no more than some of it ($longest s)");
is($mock->count('v1') . $mock->saw('KNOWN'), '101', 'the others are asked about, once, with theirs');
is(sql(q{SELECT count(*) FROM serm.task}), '0', 'nothing is left');

$node->stop('immediate');
done_testing();
