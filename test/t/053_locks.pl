# Suspending an agent takes its tasks, and what is reserved for them is spent, while workers store and reserve: nobody waits in a ring,
# and nothing leaves for a task that is gone.
use strict;
use warnings;

use MockEndpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $mock = MockEndpoint->start;
my $port = $mock->port;
my $node = PostgreSQL::Test::Cluster->new('locks');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'serm'\nserm.launcher_interval = 1\ndeadlock_timeout = 100ms\nfsync = off\nautovacuum = off\n");
$node->start;
sub sql { return $node->safe_psql('postgres', $_[0]); }

# A worker that comes to one of these places waits there while the test holds the door.
sql(q{CREATE EXTENSION serm;
	CREATE FUNCTION pause() RETURNS void LANGUAGE plpgsql AS $$BEGIN
		IF (SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()) = 'serm annotator' THEN
			PERFORM pg_advisory_lock_shared(42), pg_advisory_unlock_shared(42);
		END IF;
	END $$;
	CREATE FUNCTION pause_row() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM public.pause(); RETURN NEW; END $$;
	CREATE TRIGGER retried BEFORE UPDATE ON serm.task FOR EACH ROW
		WHEN (NEW.model = 'retried' AND NEW.lease_until IS NULL) EXECUTE FUNCTION pause_row();
	CREATE TRIGGER reserved BEFORE UPDATE ON serm.task FOR EACH ROW
		WHEN (NEW.model = 'reserved' AND OLD.reserved IS NULL AND NEW.reserved IS NOT NULL) EXECUTE FUNCTION pause_row();
	CREATE TRIGGER charged BEFORE INSERT ON serm.spending FOR EACH ROW WHEN (NEW.model = 'charged') EXECUTE FUNCTION pause_row();
	CREATE FUNCTION evidence(query text, doc text) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM pause(); RETURN 'none'; END $$});

my $prices = '';
sub make_model
{
	my ($name, $options, %habits) = @_;
	sql(qq{SELECT serm.create_model('$name', options => '{"gold_rate": 0, "rule": "unanimous"$options}');
		INSERT INTO serm.sample (model, round, query, doc_id, doc) VALUES ('$name', 2, 'blue', '1', 'the first'), ('$name', 1, 'blue', '2', 'another')});
	sql(qq{CREATE SERVER $name$_ FOREIGN DATA WRAPPER serm_agent
			OPTIONS (endpoint 'http://127.0.0.1:$port/$habits{$_}/v1', model 'mock', paths '1', cache 'false', timeout_ms '60000', canary '0' $prices);
		SELECT serm.add_agent('$name', '$name$_')}) foreach sort keys %habits;
}

# While a worker waits somewhere, somebody else finds that the agents obey what documents tell them.
sub suspend_meanwhile
{
	my ($name) = @_;
	my $logged = -s $node->logfile;
	my $door = $node->background_psql('postgres');
	$door->query_safe('SELECT pg_advisory_lock(42)');
	sql(qq{CALL serm.annotate('$name', false)});
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND mode = 'ShareLock' AND objid = 42})
		or die "$name: the worker does not come by";
	sql(qq{WITH told AS (INSERT INTO serm.sample (model, query, doc_id, doc, state) SELECT '$name', 'red', 'told ' || i, 'red', 'annotating'
			FROM generate_series(1, 3) i RETURNING id)
		INSERT INTO serm.vote (sample, agent, path, error, canary) SELECT t.id, a.name, 1, 'obeyed', true FROM told t, serm.agent a WHERE a.model = '$name'});
	my $other = $node->background_psql('postgres', on_error_stop => 0);
	$other->query_until(qr/began/, qq{\\echo began\nCALL serm.annotate('$name', false);\n\\echo ended\n});
	$node->poll_query_until('postgres', qq{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE query LIKE 'CALL%$name%' AND backend_type = 'client backend' AND (state = 'idle' OR wait_event_type = 'Lock')}) or die "$name: nobody suspends";
	$door->query_safe('SELECT pg_advisory_unlock(42)');
	$other->query_until(qr/ended/, '');
	$other->quit;
	$door->quit;
	# Whatever the worker still does with them.
	$node->poll_query_until('postgres', qq{SELECT count(*) = 0 FROM serm.task WHERE model = '$name'}) or die "$name: tasks are left";
	is(sql(qq{SELECT count(*) FROM serm.agent WHERE model = '$name' AND active}), '0', "$name: who obeys is suspended");
	unlike(slurp_file($node->logfile, $logged), qr/deadlock detected/, 'and nobody waits in a ring');
}

make_model('retried', '', '_a' => 'crossed');
suspend_meanwhile('retried');

$prices = q{, price_prompt '1000', price_completion '4000', max_tokens '50'};
make_model('reserved', '', '_a' => 'sleep');
suspend_meanwhile('reserved');
is(sql(q{SELECT string_agg(round || ' ' || requests, ', ' ORDER BY round) FROM serm.spending WHERE model = 'reserved' AND spent > 0}), '1 1, 2 1',
	'what is on its way counts as spent');

make_model('charged', '', '_a' => 'sleep', '_b' => 'v1');
suspend_meanwhile('charged');
is(sql(q{SELECT sum(requests) FROM serm.spending WHERE model = 'charged'}), '4', 'what was answered is paid for, and so is what is on its way');

make_model('taken', ', "evidence": "evidence"', '_a' => 'top');
suspend_meanwhile('taken');
is($mock->count('top'), 0, 'nobody is asked for a task that was taken away');
is(sql(q{SELECT count(*) FROM serm.spending WHERE model = 'taken'}), '0', 'nor paid');

$node->stop('immediate');
done_testing();
