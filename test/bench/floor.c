/*
 * What a pinned pod costs the kernel, and nothing else: what Sluice asks for at a launch, asked for by a C program without a store, threads
 * that talk to each other, or gRPC. floor.ts compiles and runs it in network and mount namespaces of its own.
 *
 *   floor PODS THREADS FOLDER
 *
 * Per pod: network, IPC and UTS namespaces pinned by bind mounts, hostname, lo up; a veth pair made with its peer in the pod and its host end
 * up on a bridge; address, up and default route in the pod; shm mounted, three files written. Then all is taken away. Prints for each step
 * the wall time of a pod on its thread in milliseconds, then pods per second and CPU per pod.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CHECK(call) \
	do { \
		if ((call) < 0) { \
			fprintf(stderr, "floor: %s: %s\n", #call, strerror(errno)); \
			exit(1); \
		} \
	} while (0)

enum { NAMESPACES, VETH, ADDRESS, FILES, DROP, STEPS };
static const char *names[STEPS] = {"namespaces, pinned", "veth on the bridge", "address and route", "files and shm", "take away"};

static int pods, threads, bridge;
static const char *folder;
static double spent[64][STEPS];

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* ---- rtnetlink: one message, one acknowledgement */

struct message {
	struct nlmsghdr head;
	char body[1024];
};

static void *begin(struct message *m, int type, int flags, size_t fixed) {
	memset(m, 0, sizeof *m);
	m->head.nlmsg_len = NLMSG_LENGTH(fixed);
	m->head.nlmsg_type = type;
	m->head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	return NLMSG_DATA(&m->head);
}

static struct rtattr *add(struct message *m, int type, const void *data, size_t size) {
	struct rtattr *a = (struct rtattr *)((char *)m + NLMSG_ALIGN(m->head.nlmsg_len));
	a->rta_type = type;
	a->rta_len = RTA_LENGTH(size);
	if (size) memcpy(RTA_DATA(a), data, size);
	m->head.nlmsg_len = NLMSG_ALIGN(m->head.nlmsg_len) + RTA_ALIGN(a->rta_len);
	return a;
}

static void end(struct message *m, struct rtattr *nest) {
	nest->rta_len = (char *)m + m->head.nlmsg_len - (char *)nest;
}

static int netlink(void) {
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	CHECK(fd);
	return fd;
}

static void ask(int fd, struct message *m, const char *what) {
	char answer[4096];
	CHECK(send(fd, m, m->head.nlmsg_len, 0));
	CHECK(recv(fd, answer, sizeof answer, 0));
	struct nlmsghdr *h = (struct nlmsghdr *)answer;
	struct nlmsgerr *e = NLMSG_DATA(h);
	if (h->nlmsg_type == NLMSG_ERROR && e->error) {
		fprintf(stderr, "floor: %s: %s\n", what, strerror(-e->error));
		exit(1);
	}
}

static void up(int fd, int index) {
	struct message m;
	struct ifinfomsg *link = begin(&m, RTM_NEWLINK, 0, sizeof *link);
	link->ifi_index = index;
	link->ifi_flags = link->ifi_change = IFF_UP;
	ask(fd, &m, "up");
}

static void make_bridge(void) {
	int fd = netlink();
	struct message m;
	begin(&m, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifinfomsg));
	add(&m, IFLA_IFNAME, "floor0", 7);
	struct rtattr *info = add(&m, IFLA_LINKINFO, NULL, 0);
	add(&m, IFLA_INFO_KIND, "bridge", 6);
	end(&m, info);
	ask(fd, &m, "bridge");
	bridge = if_nametoindex("floor0");
	up(fd, bridge);
	close(fd);
}

/* Host end up on the bridge, pod end eth0 in the namespace: one message, as Sluice sends it. */
static void make_veth(int fd, int netns, int pod) {
	struct message m;
	char name[16];
	snprintf(name, sizeof name, "f%d", pod);
	struct ifinfomsg *link = begin(&m, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof *link);
	link->ifi_flags = link->ifi_change = IFF_UP;
	add(&m, IFLA_IFNAME, name, strlen(name) + 1);
	add(&m, IFLA_MASTER, &bridge, sizeof bridge);
	struct rtattr *info = add(&m, IFLA_LINKINFO, NULL, 0);
	add(&m, IFLA_INFO_KIND, "veth", 4);
	struct rtattr *data = add(&m, IFLA_INFO_DATA, NULL, 0);
	struct ifinfomsg none = {0};
	struct rtattr *peer = add(&m, VETH_INFO_PEER, &none, sizeof none);
	add(&m, IFLA_IFNAME, "eth0", 5);
	add(&m, IFLA_NET_NS_FD, &netns, sizeof netns);
	end(&m, peer);
	end(&m, data);
	end(&m, info);
	ask(fd, &m, "veth");
}

static void configure(int fd, int pod) {
	int index = if_nametoindex("eth0");
	struct message m;
	struct in_addr address = {htonl(0x0a600000u + 10 + pod)}, gateway = {htonl(0x0a600001u)};
	struct ifaddrmsg *a = begin(&m, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof *a);
	a->ifa_family = AF_INET;
	a->ifa_prefixlen = 16;
	a->ifa_index = index;
	add(&m, IFA_LOCAL, &address, 4);
	add(&m, IFA_ADDRESS, &address, 4);
	ask(fd, &m, "address");
	up(fd, index);
	struct rtmsg *r = begin(&m, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, sizeof *r);
	r->rtm_family = AF_INET;
	r->rtm_table = RT_TABLE_MAIN;
	r->rtm_protocol = RTPROT_BOOT;
	r->rtm_type = RTN_UNICAST;
	add(&m, RTA_GATEWAY, &gateway, 4);
	ask(fd, &m, "route");
}

/* ---- one pod */

static const char *kinds[] = {"net", "ipc", "uts"};
static const int flags[] = {CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS};

static void path_of(char *path, int pod, const char *what) {
	snprintf(path, 256, "%s/%d.%s", folder, pod, what);
}

static void write_file(const char *path, const char *text) {
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	CHECK(fd);
	CHECK(write(fd, text, strlen(text)));
	close(fd);
}

static int open_own(const char *kind) {
	char path[64];
	snprintf(path, sizeof path, "/proc/thread-self/ns/%s", kind);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd);
	return fd;
}

static void launch(int thread, int host, int pod) {
	char path[256], source[64];
	double *step = spent[thread], t0 = now();
	int homes[3], netns;
	for (int k = 0; k < 3; k++) {
		path_of(path, pod, kinds[k]);
		close(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444));
		homes[k] = open_own(kinds[k]);
	}
	CHECK(unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS));
	for (int k = 0; k < 3; k++) {
		path_of(path, pod, kinds[k]);
		snprintf(source, sizeof source, "/proc/thread-self/ns/%s", kinds[k]);
		CHECK(mount(source, path, NULL, MS_BIND, NULL));
	}
	netns = open_own("net");
	int inside = netlink();
	up(inside, 1);
	CHECK(sethostname("floor", 5));
	for (int k = 0; k < 3; k++) {
		CHECK(setns(homes[k], flags[k]));
		close(homes[k]);
	}
	double t1 = now();
	make_veth(host, netns, pod);
	double t2 = now();
	int home = open_own("net");
	CHECK(setns(netns, CLONE_NEWNET));
	configure(inside, pod);
	CHECK(setns(home, CLONE_NEWNET));
	close(home);
	close(inside);
	close(netns);
	double t3 = now();
	path_of(path, pod, "d");
	CHECK(mkdir(path, 0700));
	const char *files[] = {"hostname", "hosts", "resolv.conf"};
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "%s/%d.d/%s", folder, pod, files[i]);
		write_file(path, "127.0.0.1\tlocalhost\n");
	}
	snprintf(path, sizeof path, "%s/%d.d/shm", folder, pod);
	CHECK(mkdir(path, 0700));
	CHECK(mount("shm", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=67108864"));
	double t4 = now();
	step[NAMESPACES] += t1 - t0;
	step[VETH] += t2 - t1;
	step[ADDRESS] += t3 - t2;
	step[FILES] += t4 - t3;
}

static void drop(int thread, int host, int pod) {
	char path[256];
	double t0 = now();
	(void)host; /* the veth goes with its namespace; deleting it by name waits for an RCU grace period of its own */
	for (int k = 0; k < 3; k++) {
		path_of(path, pod, kinds[k]);
		CHECK(umount2(path, MNT_DETACH));
		CHECK(unlink(path));
	}
	const char *files[] = {"hostname", "hosts", "resolv.conf"};
	snprintf(path, sizeof path, "%s/%d.d/shm", folder, pod);
	CHECK(umount2(path, MNT_DETACH));
	CHECK(rmdir(path));
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "%s/%d.d/%s", folder, pod, files[i]);
		CHECK(unlink(path));
	}
	path_of(path, pod, "d");
	CHECK(rmdir(path));
	spent[thread][DROP] += now() - t0;
}

static void (*work)(int, int, int);

static void *run(void *number) {
	int thread = (int)(long)number, host = netlink();
	/* A thread that changes its own UTS or IPC namespace must not share file system information with others. */
	CHECK(unshare(CLONE_FS));
	for (int pod = thread; pod < pods; pod += threads) work(thread, host, pod);
	close(host);
	return NULL;
}

/* Busy time of the whole machine in milliseconds: namespaces are taken down by kernel threads, too. */
static double machine(void) {
	unsigned long long user, nice, system, idle, wait, irq, soft;
	FILE *f = fopen("/proc/stat", "r");
	if (!f || fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle, &wait, &irq, &soft) != 7) exit(1);
	fclose(f);
	return (user + nice + system + irq + soft) * 1000.0 / sysconf(_SC_CLK_TCK);
}

static double own(void) {
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e3 + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e3;
}

/* Ports of the bridge, which the kernel's workers take away. */
static int ports(void) {
	int count = 0;
	DIR *dir = opendir("/sys/class/net/floor0/brif");
	if (!dir) exit(1);
	for (struct dirent *entry; (entry = readdir(dir));) count += entry->d_name[0] != '.';
	closedir(dir);
	return count;
}

static void all(const char *what, void (*each)(int, int, int)) {
	pthread_t ids[64];
	double wall = now(), cpu = own(), busy = machine();
	work = each;
	for (long i = 0; i < threads; i++) pthread_create(&ids[i], NULL, run, (void *)i);
	for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
	if (each == drop) while (ports() > 0) usleep(1000);
	wall = now() - wall;
	cpu = own() - cpu;
	printf("%s: %.1f pods/s; CPU per pod %.2f ms its own, ", what, pods * 1e3 / wall, cpu / pods);
	sleep(1); /* until the kernel's workers are done */
	printf("%.2f ms the machine\n", (machine() - busy) / pods);
}

int main(int argc, char **argv) {
	if (argc != 4) {
		fprintf(stderr, "usage: floor PODS THREADS FOLDER\n");
		return 2;
	}
	pods = atoi(argv[1]);
	threads = atoi(argv[2]);
	folder = argv[3];
	if (pods < 1 || pods > 1000 || threads < 1 || threads > 64) {
		fprintf(stderr, "floor: 1 to 1000 pods (a bridge has 1024 ports), 1 to 64 threads\n");
		return 2;
	}
	make_bridge();
	all("launch", launch);
	all("take away", drop);
	for (int s = 0; s < STEPS; s++) {
		double sum = 0;
		for (int t = 0; t < threads; t++) sum += spent[t][s];
		printf("  %-20s %.3f ms\n", names[s], sum / pods);
	}
	return 0;
}
