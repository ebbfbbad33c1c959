# The mock of an agent's endpoint (test/mock/endpoint.py), and what it counted. It ends with the test.
package MockEndpoint;
use strict;
use warnings;

use FindBin;
use IO::Socket::INET;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep);

my @running;
END { my $status = $?; $_->kill_kill foreach @running; $? = $status; }

sub start
{
	my ($class) = @_;
	my $directory = PostgreSQL::Test::Utils::tempdir();
	push @running, IPC::Run::start(
		[ '/usr/bin/env', 'python3', "$FindBin::RealBin/../mock/endpoint.py", '--port-file', "$directory/port" ],
		'>', '/dev/null', '2>', "$directory/errors");
	for (1 .. 400) { last if -s "$directory/port"; usleep(50_000); }
	my $port = slurp_file("$directory/port");
	chomp $port;
	return $class->at($port);
}

# Any server that answers /stats as the mock does.
sub at
{
	my ($class, $port) = @_;
	return bless { port => $port }, $class;
}

sub port { return $_[0]->{port}; }

sub get
{
	my ($self, $path) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}) or die "no mock: $!";
	print $socket "GET $path HTTP/1.0\r\n\r\n";
	return join '', <$socket>;
}

# The requests for one habit, or another number that it keeps.
sub count
{
	my ($self, $key) = @_;
	return $self->get('/stats') =~ /"\Q$key\E": (\d+)/ ? $1 : 0;
}

# 1 when some request held this text, else 0.
sub saw
{
	my ($self, $text) = @_;
	return $self->get("/seen/$text") =~ /"seen": true/ ? 1 : 0;
}

1;
