/*
 * The kernel's share of what mounts cost a launch: a mount namespace that is made, left by pivot_root and dropped, as
 * runc does it, and /proc/self/mountinfo read, with so many mounts on the node and nothing else.
 *
 *   cc -O2 -o /tmp/mounts test/bench/mounts.c && mkdir /tmp/many && /tmp/mounts 2500 50 /tmp/many
 *
 * Arguments: mounts, rounds, an empty folder. All of it is in a mount namespace of its own and ends with the process.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static double cpu_ms(int who) {
  struct rusage use;
  if (getrusage(who, &use) != 0) err(1, "getrusage");
  return (use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1e3 + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e3;
}

static void mount_or_die(const char *source, const char *target, const char *type, unsigned long flags) {
  if (mount(source, target, type, flags, "") != 0) err(1, "mount %s", target);
}

static void tmpfs(const char *target) {
  if (mkdir(target, 0700) != 0) err(1, "mkdir %s", target);
  mount_or_die("shm", target, "tmpfs", 0);
  mount_or_die("", target, "", MS_SHARED);
}

/* What runc does between unshare and exec. */
static void make_and_leave(const char *folder, const char *root) {
  if (unshare(CLONE_NEWNS) != 0) err(1, "unshare");
  mount_or_die("", "/", "", MS_REC | MS_SLAVE);
  mount_or_die("", folder, "", MS_PRIVATE);
  mount_or_die(root, root, "", MS_BIND | MS_REC);
  if (chdir(root) != 0 || syscall(SYS_pivot_root, ".", "old") != 0) err(1, "pivot_root");
  if (umount2("old", MNT_DETACH) != 0) err(1, "umount2");
  _exit(0);
}

int main(int argc, char **argv) {
  if (argc != 4) errx(2, "usage: mounts COUNT ROUNDS FOLDER");
  int count = atoi(argv[1]), rounds = atoi(argv[2]);
  const char *folder = argv[3];
  char path[4096], old[4200], buffer[65536];
  if (count < 0 || rounds < 1) errx(2, "COUNT and ROUNDS are numbers");
  if (unshare(CLONE_NEWNS) != 0) err(1, "unshare");
  mount_or_die("", "/", "", MS_REC | MS_PRIVATE);
  mount_or_die("many", folder, "tmpfs", 0);
  mount_or_die("", folder, "", MS_SHARED);
  for (int i = 0; i < count; i++) {
    snprintf(path, sizeof path, "%s/%d", folder, i);
    tmpfs(path);
  }
  snprintf(path, sizeof path, "%s/root", folder);
  tmpfs(path);
  snprintf(old, sizeof old, "%s/old", path);
  if (mkdir(old, 0700) != 0) err(1, "mkdir %s", old);

  double before = cpu_ms(RUSAGE_CHILDREN);
  for (int i = 0; i < rounds; i++) {
    pid_t child = fork();
    int status;
    if (child < 0) err(1, "fork");
    if (child == 0) make_and_leave(folder, path);
    if (waitpid(child, &status, 0) < 0 || status != 0) errx(1, "a child failed");
  }
  double made = (cpu_ms(RUSAGE_CHILDREN) - before) / rounds;

  before = cpu_ms(RUSAGE_SELF);
  for (int i = 0; i < rounds; i++) {
    int table = open("/proc/self/mountinfo", O_RDONLY);
    if (table < 0) err(1, "mountinfo");
    while (read(table, buffer, sizeof buffer) > 0) continue;
    close(table);
  }
  printf("%d mounts: a namespace made and left %.2f ms, mountinfo read %.2f ms of CPU\n", count, made,
         (cpu_ms(RUSAGE_SELF) - before) / rounds);
  return 0;
}
