# Runs as root in a machine of its own: one NFS server, and two clients in network namespaces, at /mnt/a and /mnt/b.
# What is in coarse/ there is a file system whose clock is all that tells clients of a change, and it ticks slowly.
set -eu
mkdir -p /run/lib/modules /run/netns /run/rpcbind /run/rpc_pipefs /mnt/server /mnt/a /mnt/b \
	/var/lib/nfs/sm /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
for modules in /usr/lib/uml/modules/$(uname -r) /lib/modules/$(uname -r); do
	if [ -d $modules ]; then ln -s $modules /run/lib/modules/; break; fi
done
modprobe -d /run -a nfs nfsv4 nfsd veth loop
[ -e /dev/loop0 ] || mknod /dev/loop0 b 7 0
ip link set lo up
mount -t rpc_pipefs rpc /run/rpc_pipefs
truncate -s 32M /run/disk
mkfs.ext4 -q -F /run/disk
mount -o loop /run/disk /mnt/server
mkdir /mnt/server/coarse
mount -t tmpfs server /mnt/server/coarse
mount -t nfsd nfsd /proc/fs/nfsd
echo 10 >/proc/fs/nfsd/nfsv4gracetime
echo 10 >/proc/fs/nfsd/nfsv4leasetime
options=rw,no_root_squash,async,insecure,no_subtree_check
exportfs -o $options,fsid=0,crossmnt '*:/mnt/server'
exportfs -o $options,fsid=1 '*:/mnt/server/coarse'
rpcbind -w
rpc.mountd
rpc.nfsd -N 3 -V 4.2 4
echo Y >/proc/fs/nfsd/v4_end_grace
network=1
for client in a b; do
	ip netns add $client
	ip link add v$client type veth peer name eth0 netns $client
	ip addr add 10.9.$network.1/24 dev v$client
	ip link set v$client up
	ip -n $client addr add 10.9.$network.2/24 dev eth0
	ip -n $client link set eth0 up
	ip -n $client link set lo up
	nsenter --net=/run/netns/$client unshare -u sh -c "
		hostname client-$client
		mount -t nfs4 -o vers=4.2,sec=sys 10.9.$network.1:/ /mnt/$client"
	network=$((network + 1))
done

# $1 grows to $2 lines
await() {
	for attempt in $(seq 1000); do
		if [ "$(wc -l <"$1")" -ge "$2" ]; then return; fi
		sleep 0.02
	done
	echo "waited in vain for $1 to have $2 lines"
	exit 1
}

race() {
	for client in a b; do
		for number in 1 2 3 4; do $worker hammer /mnt/$client$2 race $3 >$1.$client$number & done
	done
	wait
	cp /mnt/server$2/sess_race $1
}
race race '' 25
race coarse /coarse 250

for number in 1 2; do
	: >mixed.php$number
	php -n -d session.save_handler=files -d session.save_path=/mnt/b -d session.use_cookies=0 -r '
		for ($i = 0; $i < 75; $i++) {
			session_id("mixed");
			session_start(["cache_limiter" => ""]);
			$n = $_SESSION["n"] = ($_SESSION["n"] ?? 0) + 1;
			session_write_close();
			fwrite(STDERR, "$n\n");
			usleep(3000); // Without a pause, nobody on another host gets a turn.
		}' 2>mixed.php$number &
done
await mixed.php1 5
for number in 1 2; do $worker hammer /mnt/a mixed 25 >mixed.a$number & done
wait
cp /mnt/server/sess_mixed mixed

: >killed.a
$worker hammer /mnt/a killed 5000 >killed.a &
killed=$!
await killed.a 1
$worker hammer /mnt/b killed 100 >killed.b &
survivor=$!
await killed.a 30
await killed.b 5
# Its turn came once more, however unfairly the two hosts share.
await killed.a $(($(wc -l <killed.a) + 1))
kill -KILL $killed
wait $survivor
cp /mnt/server/sess_killed killed

mkfifo /run/orders
: >held.a
$worker hold /mnt/a held 15000 >held.a </run/orders &
holder=$!
exec 3>/run/orders
await held.a 1
$worker hammer /mnt/b held 1 >held.b &
survivor=$!
sleep 0.3
[ ! -s held.b ]
kill -KILL $holder
wait $survivor
exec 3>&-
cp /mnt/server/sess_held held

{
	$worker write /mnt/a seen 3 >/dev/null
	$worker read /mnt/b seen
	$worker write /mnt/a seen 5000 >/dev/null
	$worker read /mnt/b seen
	$worker read /mnt/b seen
	$worker write /mnt/a seen 4 >/dev/null
	$worker read /mnt/b seen
} >seen

# What of the session $1 is deleted on one host while the commands that follow wait on the other.
delete_under() {
	$worker write /mnt/a $1 7 >/dev/null
	$worker read /mnt/b $1 >/dev/null
	: >deleting
	$worker hold /mnt/a $1 15000 >deleting </run/orders &
	exec 3>/run/orders
	await deleting 1
	$worker $2 /mnt/b $1 ${3-} >deleted.$1 &
	waiter=$!
	sleep 0.2
	[ ! -s deleted.$1 ]
	echo delete >&3
	wait $waiter
	exec 3>&-
	wait
}
for round in 1 2 3 4 5; do
	delete_under admitted$round admit
	delete_under begun$round hammer 1
	echo "$(cat deleted.admitted$round), $(cat /mnt/server/sess_begun$round)"
done >deleted

directory=/mnt/server/coarse
content() { echo "$(tr -d -c x <$directory/sess_full | wc -c) of x, $(tr -d x <$directory/sess_full | wc -c) of others"; }
{
	$worker write /mnt/a/coarse full 3000
	mount -o remount,size=$(($(df --output=used -k $directory | tail -n 1) + 8))k $directory
	$worker write /mnt/a/coarse full 30000
	content
	mount -o remount,size=10M $directory
	$worker write /mnt/a/coarse full 30000
	content
} >full
