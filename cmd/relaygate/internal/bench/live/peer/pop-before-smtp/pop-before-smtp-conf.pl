# pop-before-smtp with its own way and pace of tailing and its own database. The
# element is added beside the entry, as its ip-blocking-conf.pl adds a rule.
use strict;
use vars qw($pat $logto $dbfile %file_tail %db $dbvalue $mynet_func $add_func);

$file_tail{'name'} = '@DIR@/mail.log';
$logto = '@DIR@/own.log'; # perl -T takes none from the command line
$dbfile = '@DIR@/relay';
# Its pattern for Dovecot by way of syslog.
$pat = '^[LOGTIME] \S+ (?:dovecot: )?(?:imap|pop3)-login: ' .
    'Login: .*? (?:\[|rip=)[:f]*(\d+\.\d+\.\d+\.\d+)[],]';
$mynet_func = sub { '127.0.0.0/8' };
$add_func = sub {
    my ($ip) = @_;
    $db{$ip} = $dbvalue;
    system('nft', 'add', 'element', 'inet', 'relaygate-bench', 'members', "{ $ip }");
};

1;
