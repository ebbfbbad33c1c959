# Money and faults: what a request costs that never left, whose model is gone, or whose endpoint has a forbidden address, too.
use strict;
use warnings;

use File::Temp qw(tempdir);
use IO::Socket::INET;
use MockEndpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $directory = tempdir(CLEANUP => 1);
chmod 0755, $directory;
my $mock = MockEndpoint->start;
my $port = $mock->port;

# A resolver that gives "two.test" a forbidden address before the one that is allowed.
my $shim = "$directory/two_addresses";
append_to_file("$shim.c", q{
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
	struct addrinfo *first, *second;

	if (node == NULL || strcmp(node, "two.test") != 0)
		return real(node, service, hints, result);
	if (real("192.0.2.1", service, hints, &first) != 0 || real("224.0.0.1", service, hints, &second) != 0)
		return EAI_FAIL;
	for (*result = first; first->ai_next != NULL; first = first->ai_next)
		continue;
	first->ai_next = second;
	return 0;
}
});
system_or_bail($ENV{CC} || 'cc', '-shared', '-fPIC', '-o', "$shim.so", "$shim.c", '-ldl');
$ENV{LD_PRELOAD} = "$shim.so";

my $node = PostgreSQL::Test::Cluster->new('money');
$node->init;
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'serm'
serm.launcher_interval = 1
max_worker_processes = 16
serm.allow_http = on
serm.allow_cidr = '224.0.0.0/4'
fsync = off
});
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION serm');

sub sql { return $node->safe_psql('postgres', $_[0]); }

my $prices = q{price_prompt '1000', price_completion '4000', max_tokens '50', cache 'false', canary '0'};

sub make_model
{
	my ($name, $url, $options, $samples) = @_;
	sql(qq{SELECT serm.create_model('$name', options => '{"gold_rate": 0, "rule": "unanimous"}');
		CREATE SERVER $name FOREIGN DATA WRAPPER serm_agent
			OPTIONS (endpoint '$url', model 'mock', paths '1', $prices, $options);
		SELECT serm.add_agent('$name', '$name');
		INSERT INTO serm.sample (model, query, doc_id, doc)
		SELECT '$name', 'blue pillow ' || i, 'd' || i, 'a blue pillow ' || i FROM generate_series(1, $samples) AS i});
}

sub spent { return sql(qq{SELECT coalesce(sum(spent), 0) FROM serm.spending WHERE model = '$_[0]'}); }

# --- a host that does not accept connections: its queue is full, so the kernel answers no more
my $deaf = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die "no listener: $!";
my @waiting = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $deaf->sockport, Blocking => 0) } 1 .. 8;
make_model('deaf', 'http://127.0.0.1:' . $deaf->sockport . '/v1', q{connect_timeout_ms '300', timeout_ms '5000', max_attempts '2'}, 2);
sql(q{CALL serm.annotate('deaf')});
is(sql(q{SELECT count(*), bool_and(error LIKE '%timed out%') FROM serm.vote WHERE agent = 'deaf' AND error IS NOT NULL}), '2|t',
	'a host that does not answer times out');
is(spent('deaf'), '0', 'and is not paid for requests that never left');

# --- a name with a forbidden address beside the one that is used
make_model('double', 'http://two.test/v1', q{connect_timeout_ms '300', timeout_ms '5000', max_attempts '2'}, 1);
sql(q{CALL serm.annotate('double')});
like(sql(q{SELECT error FROM serm.vote WHERE agent = 'double'}), qr/connect.* \(attempt 2\)/,
	'a forbidden address is not blamed for what goes wrong with the allowed one');
is(spent('double'), '0', 'which costs nothing either');

# --- a gateway that sends its headers before the model has thought
make_model('early', "http://127.0.0.1:$port/early/v1", q{timeout_ms '30000', max_attempts '1'}, 2);
sql(q{CALL serm.annotate('early')});
is(sql(q{SELECT count(grade), max(error) FROM serm.vote WHERE agent = 'early'}), '2|', 'a model may think after its headers have come');

# --- a model that is dropped while its requests are on their way
make_model('kept', "http://127.0.0.1:$port/slow/v1", q{timeout_ms '5000'}, 40);
sql(q{CALL serm.annotate('kept', false)});
my $log = -s $node->logfile;
for my $i (1 .. 6)
{
	make_model("doomed_$i", "http://127.0.0.1:$port/v1", q{timeout_ms '5000'}, 150);
	sql(qq{CALL serm.annotate('doomed_$i', false)});
	$node->poll_query_until('postgres', qq{SELECT count(*) > 5 * $i FROM serm.vote WHERE agent = 'doomed_$i'}) or fail('requests are on their way');
	$node->psql('postgres', $i % 2 ? qq{SELECT serm.drop_model('doomed_$i')} : qq{SELECT serm.remove_agent('doomed_$i', 'doomed_$i')});
}
sql(q{CALL serm.annotate('kept')});
unlike(substr(slurp_file($node->logfile), $log), qr/ERROR/, 'a model or agent that goes meanwhile takes no worker down, nor is in its way');
is(sql(q{SELECT count(grade) FROM serm.vote WHERE agent = 'kept'}), '40', 'and what others asked is answered');

# --- settings of roles and databases that are meant for sessions
sql(q{CREATE ROLE other LOGIN SUPERUSER;
	ALTER DATABASE postgres SET default_transaction_isolation = 'serializable';
	ALTER DATABASE postgres SET lock_timeout = '1ms'});
$log = -s $node->logfile;
make_model('strict', "http://127.0.0.1:$port/v1", q{requests_per_minute '6000'}, 300);
sql(q{UPDATE serm.sample SET query = query WHERE false});
sql(q{INSERT INTO serm.sample (model, round, query, doc_id, doc) SELECT model, 1, query, doc_id, doc FROM serm.sample WHERE model = 'strict'});
sql(q{CALL serm.annotate('strict', false, '{"limit": 300}')});
my ($code, $out, $err) = $node->psql('postgres', q{SET default_transaction_isolation = 'read committed'; SET lock_timeout = 0; CALL serm.annotate('strict', false)}, extra_params => [ '-U', 'other' ]);
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM serm.task}) or fail('all is answered');
unlike(substr(slurp_file($node->logfile), $log), qr/ERROR/, 'settings for sessions take no worker down');

$node->stop;
done_testing();
