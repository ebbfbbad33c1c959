# API keys with a canary in them: they reach the endpoint, and stand nowhere else.
use strict;
use warnings;

use FindBin;
use IPC::Run qw(start);
use MockEndpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $mock = MockEndpoint->start;
my $port = $mock->port;
my $watch;
END { my $status = $?; $watch->kill_kill if defined $watch; $? = $status; }

# In halves, so that this text alone finds nothing.
my $canary = 'CANARY' . '-7f3a';
my %key = map({ $_ => "sk-$canary-$_" } qw(file env literal));
$ENV{SERM_TEST_KEY} = $key{env};
my $node = PostgreSQL::Test::Cluster->new('keys');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'serm, auto_explain, pg_stat_statements'
serm.launcher_interval = 1
fsync = off
log_statement = 'all'
log_min_messages = debug5
log_min_error_statement = debug5
log_error_verbosity = verbose
log_min_duration_statement = 0
log_parameter_max_length = -1
log_parameter_max_length_on_error = -1
auto_explain.log_min_duration = 0
auto_explain.log_analyze = on
auto_explain.log_verbose = on
auto_explain.log_nested_statements = on
pg_stat_statements.track = all
});
$node->start;
delete $ENV{SERM_TEST_KEY};
my $said = '';

# Everything that a session is told goes into $said.
sub run
{
	my ($statement) = @_;
	my ($code, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$statement");
	$said .= "$out\n$err\n";
	return ($code, $out, $err);
}
sub sql { my ($code, $out, $err) = run($_[0]); die "$_[0]: $err" if $code; return $out; }

sql('CREATE EXTENSION serm; CREATE EXTENSION pg_stat_statements');
my $file = $node->data_dir . '/agent.key';
append_to_file($file, "$key{file}\n");
chmod 0600, $file;
sql(q{SELECT serm.create_model('keys', options => '{"gold_rate": 0, "rule": "unanimous"}')});
my @habits = qw(v1 echo echobad echoescaped 401);
for my $kind (sort keys %key)
{
	my $option = { file => "api_key_file '$file'", env => "api_key_env 'SERM_TEST_KEY'", literal => "api_key '$key{literal}'" }->{$kind};
	for my $habit (@habits)
	{
		sql(qq{CREATE SERVER ${kind}_$habit FOREIGN DATA WRAPPER serm_agent OPTIONS
			(endpoint 'http://127.0.0.1:$port/$habit/v1', model 'mock', paths '2', max_attempts '2', timeout_ms '1000', temperature '1');
			SELECT serm.add_agent('keys', '${kind}_$habit')});
		# The statement that holds a key is the one thing that must not be logged; whoever writes it sees to that.
		sql(qq{SET log_statement = none; SET log_min_duration_statement = -1; SET log_min_messages = fatal; SET pg_stat_statements.track_utility = off;
			SET log_min_error_statement = fatal; CREATE USER MAPPING FOR PUBLIC SERVER ${kind}_$habit OPTIONS ($option)});
	}
}
sql(q{INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'keys', 'blue pillow ' || i, i::text, 'a blue pillow' FROM generate_series(1, 3) i});

# What a monitor sees meanwhile, but for the session that has just written a key.
sql('CREATE TABLE activity (seen text)');
$watch = start([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-c',
	q{DO $$BEGIN LOOP PERFORM pg_stat_clear_snapshot(); INSERT INTO activity SELECT a::text FROM pg_stat_activity a WHERE a.query !~ 'CREATE USER MAPPING'; COMMIT; PERFORM pg_sleep(0.05); END LOOP; END$$} ],
	'>', '/dev/null', '2>', '/dev/null');
run(q{CALL serm.annotate('keys')});
$watch->kill_kill;
undef $watch;
ok($mock->saw($key{$_}), "the key by $_ reaches the endpoint") for sort keys %key;
is(sql(q{SELECT count(*) FROM serm.task}), '0', 'all is answered');
is(sql(q{SELECT count(*) FROM serm.vote WHERE agent LIKE '%echo%' AND (rationale LIKE '%***%' OR encode(reply, 'escape') LIKE '%***%')}), 3 * 3 * 3 * 2,
	'those who said it are starred out');

# --- errors about keys
run(qq{SET log_statement = none; SET log_min_duration_statement = -1; SET log_min_error_statement = error; SET pg_stat_statements.track_utility = off; CREATE USER MAPPING FOR CURRENT_USER SERVER file_v1 OPTIONS ($_)})
  for ("api_key E'$key{literal}\\n'", "api_key '$key{literal}', api_key_file '$file'", "api_key '" . $key{literal} x 300 . "'", "api_kye '$key{literal}'");
append_to_file("$file.bad", "$key{file}\t\x01 two\n");
chmod 0600, "$file.bad";
sql(qq{ALTER USER MAPPING FOR PUBLIC SERVER file_v1 OPTIONS (SET api_key_file '$file.bad');
	INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('keys', 'green pillow', '9', 'a green pillow')});
run(q{CALL serm.annotate('keys')});
like(sql(q{SELECT max(error) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.doc_id = '9' AND agent = 'file_v1'}), qr/api_key_file/, 'a key that is no key is an error of its vote');
run(qq{EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM $_}) for qw(serm.vote serm.agent serm.stat_server serm.stat_agent serm.review_queue);

# --- nowhere
my $tables = sql(q{SELECT string_agg(format('SELECT %L, t::text FROM %s t', c.oid::regclass, c.oid::regclass), ' UNION ALL ')
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE (n.nspname = 'serm' AND c.relkind IN ('r', 'v', 'm')) OR c.oid::regclass::text = ANY
	 ('{pg_foreign_server,pg_stat_activity,pg_settings,pg_stat_statements,pg_prepared_statements,pg_description,pg_db_role_setting,pg_file_settings}')});
is(sql(qq{SELECT string_agg(DISTINCT x.place, ' ') FROM ($tables) AS x(place, row) WHERE x.row LIKE '%$canary%'}), '', 'not in any table or view');
is(sql(qq{SELECT count(*) FROM serm.vote v WHERE position('$canary'::bytea IN v.reply) > 0 OR position('$canary'::bytea IN v.key) > 0}), '0', 'nor in bytes');
# That statement has just named it itself.
my $log = slurp_file($node->logfile);
cmp_ok(length($log), '>', 1_000_000, 'the log is at its most talkative');
ok($log =~ /Query Text: WITH given AS/, 'and explains what the worker does');
# From debug3 on PostgreSQL writes the environment it was started with.
$log =~ s/\tSERM_TEST_KEY=.*$//mg;
my @lines = grep(/\Q$canary\E-(file|env|literal)/, split(/\n/, $log));
is(join("\n", @lines), '', 'not in the log');
is(sql(q{SELECT count(*) > 20 AND bool_or(seen LIKE '%serm annotator%') FROM activity}), 't', 'activity was watched');
is(sql(q{SELECT count(*) FROM activity WHERE seen LIKE '%' || 'CANARY' || '-7f3a-%'}), '0', 'not in pg_stat_activity at any time');
$said =~ s/\Q$canary\E(?!-)//g;
is(join("\n", grep(/\Q$canary\E-/, split(/\n/, $said))), '', 'not in what sessions were told');
my ($dump) = run_command([ 'pg_dumpall', '-d', $node->connstr('postgres') ]);
ok($dump =~ /api_key_file/, 'a dump holds mappings');
ok(index($dump, $key{$_}) < 0, "a dump does not hold the key by $_") for qw(file env);
ok(($dump =~ s/api_key '\Q$key{literal}\E'//gr) !~ /\Q$canary\E-/, 'and a literal one in its mapping only');
sql(q{CREATE ROLE analyst LOGIN; SELECT serm.grant_access('analyst', 'operate'); GRANT USAGE ON FOREIGN SERVER literal_v1 TO analyst;
	GRANT pg_read_all_stats, pg_read_all_settings, pg_monitor TO analyst});
is(sql(qq{SET ROLE analyst; SELECT count(*) FROM pg_user_mappings m WHERE m::text LIKE '%' || 'CANARY' || '%'}), '0', 'other roles do not see mappings');
is(sql(q{SET ROLE analyst; SELECT has_table_privilege('pg_user_mapping', 'SELECT')}), 'f', 'nor their table');

# --- nor in the memory of whoever is still there: a worker that rests, the launcher, the postmaster
sql(qq{SELECT serm.create_model('resting', options => '{"gold_rate": 0, "rule": "unanimous"}');
	CREATE SERVER resting FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:$port/v1', model 'mock', paths '20', max_attempts '2');
	CREATE SERVER later FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:$port/later/v1', model 'mock', paths '1', max_attempts '2');
	CREATE USER MAPPING FOR PUBLIC SERVER resting OPTIONS (api_key_file '$file'); CREATE USER MAPPING FOR PUBLIC SERVER later OPTIONS (api_key_file '$file');
	SELECT serm.add_agent('resting', 'resting'), serm.add_agent('resting', 'later');
	INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'resting', 'blue pillow ' || i, i::text, 'a blue pillow' FROM generate_series(1, 20) i;
	CALL serm.annotate('resting', false)});
$node->poll_query_until('postgres', q{SELECT count(*) = 20 AND bool_and(agent = 'later' AND lease_until IS NULL AND attempt = 0) AND bool_or(last_error LIKE '%429%') FROM serm.task}) or die 'it does not rest';
my %pids = split(/[|\n]/, sql(q{SELECT backend_type, max(pid) FROM pg_stat_activity WHERE backend_type LIKE 'serm%' GROUP BY 1}));
$pids{postmaster} = (split(/\n/, slurp_file($node->data_dir . '/postmaster.pid')))[0];
ok(defined $pids{'serm annotator'}, 'a worker rests');
for my $who (sort keys %pids)
{
	# The key without its first character: half a key is found, too.
	my ($hits) = run_command([ '/usr/bin/env', 'python3', "$FindBin::RealBin/../mock/memory.py", $pids{$who}, substr($key{file}, 1) ]);

  SKIP:
	{
		skip 'memory of other processes cannot be read here', 1 if $hits eq 'unreadable';
		is($hits, '0', "$who: no key in its memory");
	}
}
$node->stop('fast');
# --- nor on disk: tables, log of writes, what statistics keep
for my $kind (qw(file env))
{
	my ($files) = run_command([ 'grep', '-rlaF', $key{$kind}, $node->data_dir ]);
	is(join(' ', grep { $_ !~ m{/agent\.key(\.bad)?$} } split(/\n/, $files)), '', "the key by $kind: not in any file of the data directory");
}
my ($known) = run_command([ 'grep', '-rlaF', $key{literal}, $node->data_dir . '/base' ]);
isnt($known, '', 'where one by literal is found');
done_testing();
