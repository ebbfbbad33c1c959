# What settling and filling the queue read: as much for a sample with few votes in the database as with many, and whatever the planner knows of them.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# What lies there before, what is settled, and what may be read of each table for one of these.
my ($before, $settled, $most) = (2000, 300, 16);

my $node = PostgreSQL::Test::Cluster->new('settling');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum = off\nfsync = off\n");
$node->start;
sub sql { return $node->safe_psql('postgres', $_[0]); }
sql('CREATE EXTENSION serm; CREATE SERVER server FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint $$http://127.0.0.1:1/v1$$, model $$none$$);
	CREATE FUNCTION judge(query text, doc text) RETURNS integer LANGUAGE sql IMMUTABLE RETURN 2');

sub add_model
{
	sql("SELECT serm.create_model('$_[0]', options => '{\"rule\": \"unanimous\", \"gold_rate\": 0}');
		SELECT serm.add_agent('$_[0]', 'judge(text,text)'::regprocedure)");
}

# Samples of one model, with votes (every tenth with a canary that was not obeyed) unless they wait for them.
sub add_samples
{
	my ($model, $name, $count, $state) = @_;
	sql("INSERT INTO serm.sample (model, query, doc_id, doc, state, priority) SELECT '$model', 'blue pillow', '$name' || i, 'a blue pillow', '$state', i % 7
		FROM generate_series(1, $count) AS i");
	sql("INSERT INTO serm.vote (sample, agent, path, grade, canary) SELECT id, 'judge', 1, 2, CASE WHEN id % 10 = 0 THEN false END
		FROM serm.sample WHERE model = '$model' AND doc_id ~ '^${name}[0-9]'") if $state ne 'waiting';
}

# Rows of a table that were read, by all sessions that have ended.
my @tables = qw(sample vote task agent);
sub rows_read
{
	my %read = map { $_ => sql("SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relid = 'serm.$_'::regclass") } @tables;
	return \%read;
}

sub check_rows
{
	my ($start, $what) = @_;
	my $end = rows_read();
	for my $table (@tables)
	{
		my $read = ($end->{$table} - $start->{$table}) / $settled;
		cmp_ok($read, '<=', $most, "$what: $read rows of serm.$table for each sample");
	}
}

sub analyze { return sql('ANALYZE serm.sample, serm.vote, serm.task, serm.judgment'); }

sub annotate
{
	my ($model, $what) = @_;
	my $start = rows_read();
	sql("CALL serm.annotate('$model', false)");
	check_rows($start, $what);
	is(sql("SELECT count(*) FROM serm.sample WHERE model = '$model' AND state <> 'agreed'"), '0', "$what: all are settled");
}

# As a worker does it, which has no session of its own to be counted: claimed in batches, answered one by one.
sub ask
{
	my ($model, $what) = @_;
	add_samples($model, 'asked', $settled, 'waiting');
	sql("SELECT serm.add_agent('$model', 'server'); UPDATE serm.sample SET state = 'annotating' WHERE model = '$model' AND state = 'waiting';
		INSERT INTO serm.task (model, sample, agent, path, requested_by) SELECT model, id, 'server', 1, 'postgres'::regrole FROM serm.sample
		WHERE model = '$model' AND state = 'annotating'");
	my $start = rows_read();
	sql('CREATE TEMP TABLE claimed AS SELECT * FROM serm._claim(0, 60000);
		DO $$BEGIN FOR i IN 1..3 LOOP INSERT INTO claimed SELECT * FROM serm._claim(100, 60000); END LOOP; END$$;
		SELECT count(serm._finish(task, token, 2)) FROM claimed');
	check_rows($start, $what);
	is(sql('SELECT count(*) FROM serm.task'), '0', "$what: all are answered");
}

# Nothing was ever analyzed; then only other models, which have votes of an agent of the same name; then all; then tables that had become empty.
for my $known (qw(none others all emptied))
{
	sql('SELECT serm.drop_model(name) FROM serm.model') if $known eq 'emptied';
	analyze() if $known =~ /others|emptied/;
	add_model($known);
	add_samples($known, 'old', $before, 'agreed');
	add_samples($known, 'new', $settled, 'annotating');
	analyze() if $known eq 'all';
	annotate($known, "votes, statistics of $known");
	add_samples($known, 'next', $settled, 'waiting');
	analyze() if $known eq 'all';
	annotate($known, "the queue, statistics of $known");
	ask($known, "a server, statistics of $known");
	annotate($known, "its votes, statistics of $known");
}

# Where the queue is believed to be empty all its indexes cost the same, and one that has the id in the last place is read whole for each task.
is(sql("SELECT string_agg(i.indexrelid::regclass::text, ' ') FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'id'
	WHERE i.indrelid = 'serm.task'::regclass AND a.attnum = ANY (i.indkey)"), 'serm.task_pkey', 'one index finds a task by its id');

$node->stop;
done_testing();
