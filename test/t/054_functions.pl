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
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'serm, plpgsql'\nserm.function_timeout = '500ms'\nfsync = off\n");
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
	'2|38000: it ran longer than serm.function_timeout (500 ms)|2|38000: it ran longer than serm.function_timeout (500 ms)', 'one that does not return has not answered');

# Caught, the clock comes again; what it is not stays a cancel, also after it.
sql(q{CREATE FUNCTION asleep() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END $$;
	CREATE FUNCTION once(query text, doc text) RETURNS integer LANGUAGE plpgsql AS $$BEGIN PERFORM asleep(); PERFORM pg_sleep(600); RETURN 1; END $$;
	CREATE FUNCTION always(query text, doc text) RETURNS integer LANGUAGE plpgsql AS $$BEGIN FOR i IN 1 .. 4 LOOP PERFORM asleep(); END LOOP; RETURN 1; END $$;
	CREATE FUNCTION user_comes(query text, doc text) RETURNS integer LANGUAGE plpgsql AS $$BEGIN
		PERFORM asleep(); PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(600); RETURN 1; END $$;
	SELECT serm.create_model(f, options => '{"gold_rate": 0, "rule": "unanimous"}') FROM unnest('{once,always,user_comes}'::text[]) f;
	SELECT serm.add_agent(f, (f || '(text,text)')::regprocedure) FROM unnest('{once,always,user_comes}'::text[]) f;
	INSERT INTO serm.sample (model, query, doc_id, doc) SELECT f, 'q', '1', 'd' FROM unnest('{once,always,user_comes}'::text[]) f});
sub ends { my ($judge, $timeout) = @_; my (undef, undef, $err) = $node->psql('postgres', "\\set VERBOSITY sqlstate\nSET statement_timeout = '$timeout'; CALL serm.annotate('$judge')"); return $err; }
like(ends('once', '750ms'), qr/57014/, 'a statement_timeout after the clock was caught ends the call');
like(ends('always', '750ms'), qr/57014/, 'and so it does when it is caught itself');
like(ends('user_comes', '60s'), qr/57014/, 'a cancel of somebody else does, too');
is(sql(q{SELECT count(*) FROM serm.vote WHERE agent IN ('once', 'always', 'user_comes')}), '0', 'none of them is an answer');
unlike(ends('once', '60s'), qr/ERROR/, 'a judge that catches the clock meets it again');
is(sql(q{SELECT error FROM serm.vote WHERE agent = 'once'}), '38000: it ran longer than serm.function_timeout (500 ms)', 'and has not answered');
sql(q{SELECT serm.create_model('patient', options => '{"gold_rate": 0, "rule": "unanimous"}');
	CREATE FUNCTION slow(query text, doc text) RETURNS integer LANGUAGE sql AS 'SELECT 1 FROM pg_sleep(0.8)'; SELECT serm.add_agent('patient', 'slow(text,text)'::regprocedure);
	INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('patient', 'q', '1', 'd')});
sql(q{SET serm.function_timeout = 0; CALL serm.annotate('patient')});
is(sql(q{SELECT grade FROM serm.vote WHERE agent = 'slow'}), '1', 'the limit can be taken away');

# --- evidence: the same, and no transaction of the worker lasts as long as all of it
sql(qq{SELECT serm.create_model('shown', options => '{"gold_rate": 0, "rule": "unanimous", "evidence": "evidence"}');
	CREATE SERVER shown FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:$port/v1', model 'mock', paths '1', temperature '0', cache 'false');
	SELECT serm.add_agent('shown', 'shown');
	INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'shown', 'q' || i, i, CASE WHEN i <= 10 THEN 'slow ' ELSE 'quick ' END || i FROM generate_series(1, 14) i;
	CALL serm.annotate('shown', false)});
my ($done, $longest, $started) = (0, 0, time);
while ($done < 14 && time - $started < 60)
{
	my ($votes, $age) = split /\|/, sql(q{SELECT (SELECT count(*) FROM serm.vote WHERE agent = 'shown'),
		(SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) FROM pg_stat_activity WHERE backend_type = 'serm annotator')});
	$done = $votes;
	$longest = $age if $age > $longest;
	usleep(20_000);
}
is(sql(q{SELECT count(grade), count(*) FILTER (WHERE error = '38000: the evidence function failed: 38000: it ran longer than serm.function_timeout (500 ms)') FROM serm.vote WHERE agent = 'shown'}),
	'4|10', 'evidence that does not come is an error of its vote');
cmp_ok($longest, '<', 3.5, "vacuum waits for no more than some of it ($longest s)");
is($mock->count('v1') . $mock->saw('KNOWN'), '41', 'the others are asked about, once, with theirs');
is(sql(q{SELECT count(*) FROM serm.task WHERE model IN ('judged', 'patient', 'shown')}), '0', 'nothing is left');

$node->stop('immediate');
done_testing();
