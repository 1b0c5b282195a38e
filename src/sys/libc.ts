/**
 * The only file that calls libc. Each function is a synchronous call on the calling thread: `unshare`, `setns` and
 * `mount` change the namespaces of that thread alone, so a pool worker can enter a namespace without an effect on the
 * rest of the process. koffi's asynchronous calls run on threads of libuv's pool and are used only where neither the
 * thread nor its errno matters (sync.ts, wait.ts).
 */
import { getSystemErrorMessage, getSystemErrorName } from 'node:util';
import koffi from 'koffi';

const lib = koffi.load('libc.so.6');

/** A failed libc call. `code` is the errno's name (`EBUSY`), as in Node's own system errors. */
export class SysError extends Error {
  override readonly name = 'SysError';
  readonly syscall: string;
  readonly errno: number;
  readonly code: string;

  constructor(syscall: string, errno: number, detail = '') {
    super(`${syscall}${detail ? ` ${detail}` : ''}: ${getSystemErrorMessage(-errno)}`);
    this.syscall = syscall;
    this.errno = errno;
    this.code = getSystemErrorName(-errno);
  }
}

/**
 * Returns a result that is not negative, and throws the errno as {@link SysError} otherwise. `detail` names the object
 * (a path).
 */
export function check(syscall: string, result: number, detail?: string): number {
  if (result < 0) throw new SysError(syscall, koffi.errno(), detail);
  return result;
}

/** The errno of the last call on this thread, for callers that handle some failures themselves. */
export const errno = (): number => koffi.errno();

koffi.struct('iovec', { base: 'const void *', length: 'size_t' });
koffi.struct('msghdr', {
  name: 'const void *',
  nameLength: 'uint',
  iov: 'iovec *',
  iovLength: 'size_t',
  control: 'const void *',
  controlLength: 'size_t',
  flags: 'int',
});

export const libc = {
  open: lib.func('int open(const char *path, int flags, uint mode)'),
  openat: lib.func('int openat(int dir, const char *path, int flags, uint mode)'),
  close: lib.func('int close(int fd)'),
  dup3: lib.func('int dup3(int fd, int newfd, int flags)'),
  pipe2: lib.func('int pipe2(_Out_ int *fds, int flags)'),
  write: lib.func('long write(int fd, const void *buf, size_t count)'),
  read: lib.func('long read(int fd, void *buf, size_t count)'),
  lseek: lib.func('int64_t lseek(int fd, int64_t offset, int whence)'),
  memfdCreate: lib.func('int memfd_create(const char *name, uint flags)'),
  mmap: lib.func('void *mmap(void *addr, size_t length, int prot, int flags, int fd, int64_t offset)'),
  fallocate: lib.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)'),
  ioctl: lib.func('int ioctl(int fd, ulong request, void *arg)'),
  flock: lib.func('int flock(int fd, int operation)'),
  fcntl: lib.func('int fcntl(int fd, int command, long argument)'),
  syncfs: lib.func('int syncfs(int fd)'),
  syncFileRange: lib.func('int sync_file_range(int fd, int64_t offset, int64_t nbytes, uint flags)'),

  unshare: lib.func('int unshare(int flags)'),
  sethostname: lib.func('int sethostname(const void *name, size_t length)'),
  setns: lib.func('int setns(int fd, int nstype)'),
  chdir: lib.func('int chdir(const char *path)'),
  fchdir: lib.func('int fchdir(int fd)'),
  chroot: lib.func('int chroot(const char *path)'),
  pivotRoot: lib.func('int pivot_root(const char *newRoot, const char *putOld)'),
  mount: lib.func('int mount(const char *source, const char *target, const char *type, ulong flags, const void *data)'),
  umount2: lib.func('int umount2(const char *target, int flags)'),
  syscall3: lib.func('long syscall(long number, long a, const void *b, long c)'),
  mountCall: lib.func('long syscall(long number, const void *request, void *result, size_t size, uint flags)'),
  syscallAt: lib.func('long syscall(long number, long a, const void *b, long c, const void *d, long e)'),
  pidfdSignal: lib.func('long syscall(long number, int fd, int signal, const void *info, uint flags)'),

  socket: lib.func('int socket(int domain, int type, int protocol)'),
  bind: lib.func('int bind(int fd, const void *addr, uint len)'),
  listen: lib.func('int listen(int fd, int backlog)'),
  socketpair: lib.func('int socketpair(int domain, int type, int protocol, _Out_ int *fds)'),
  sendmsg: lib.func('long sendmsg(int fd, const msghdr *message, int flags)'),
  connect: lib.func('int connect(int fd, const void *addr, uint len)'),
  setsockopt: lib.func('int setsockopt(int fd, int level, int option, const void *value, uint len)'),
  strerror: lib.func('const char *strerror(int errno)'),

  mknod: lib.func('int mknod(const char *path, uint mode, uint64_t dev)'),
  mkfifo: lib.func('int mkfifo(const char *path, uint mode)'),
  lsetxattr: lib.func('int lsetxattr(const char *path, const char *name, const void *value, size_t size, int flags)'),
  lgetxattr: lib.func('long lgetxattr(const char *path, const char *name, void *value, size_t size)'),
  llistxattr: lib.func('long llistxattr(const char *path, void *list, size_t size)'),
  futimens: lib.func('int futimens(int fd, const void *times)'),
  utimensat: lib.func('int utimensat(int dir, const char *path, const void *times, int flags)'),

  mallocTrim: lib.func('int malloc_trim(size_t pad)'),
  madvise: lib.func('int madvise(uintptr_t address, size_t length, int advice)'),
  setpriority: lib.func('int setpriority(int which, uint who, int prio)'),
  schedGetaffinity: lib.func('int sched_getaffinity(int tid, size_t size, void *set)'),
  schedSetaffinity: lib.func('int sched_setaffinity(int tid, size_t size, const void *set)'),
  schedSetscheduler: lib.func('int sched_setscheduler(int tid, int policy, const void *parameters)'),
  kill: lib.func('int kill(int pid, int signal)'),
  sigaddset: lib.func('int sigaddset(void *set, int signal)'),
  pthreadSigmask: lib.func('int pthread_sigmask(int how, const void *set, void *old)'),
  waitpid: lib.func('int waitpid(int pid, _Out_ int *status, int options)'),
  posixSpawn: lib.func(
    'int posix_spawn(_Out_ int *pid, const char *path, const void *actions, const void *attr, const char **argv, const char **envp)',
  ),
  actionsInit: lib.func('int posix_spawn_file_actions_init(void *actions)'),
  actionsDestroy: lib.func('int posix_spawn_file_actions_destroy(void *actions)'),
  actionsDup2: lib.func('int posix_spawn_file_actions_adddup2(void *actions, int fd, int newfd)'),
  actionsOpen: lib.func(
    'int posix_spawn_file_actions_addopen(void *actions, int fd, const char *path, int flags, uint mode)',
  ),
  actionsChdir: lib.func('int posix_spawn_file_actions_addchdir_np(void *actions, const char *path)'),
  attrInit: lib.func('int posix_spawnattr_init(void *attr)'),
  attrDestroy: lib.func('int posix_spawnattr_destroy(void *attr)'),
  attrSetFlags: lib.func('int posix_spawnattr_setflags(void *attr, short flags)'),
  attrSetSigmask: lib.func('int posix_spawnattr_setsigmask(void *attr, const void *set)'),
  attrSetSigdefault: lib.func('int posix_spawnattr_setsigdefault(void *attr, const void *set)'),
};

/**
 * Constants of <fcntl.h>, <sched.h>, <sys/mount.h> and others, with Linux's values on the architectures that Node
 * supports.
 */
export const C = {
  O_RDONLY: 0,
  O_WRONLY: 1,
  O_RDWR: 2,
  O_CREAT: 0o100,
  O_EXCL: 0o200,
  O_APPEND: 0o2000,
  O_NONBLOCK: 0o4000,
  O_CLOEXEC: 0o2000000,
  O_PATH: 0o10000000,
  SCHED_OTHER: 0,
  SCHED_RR: 2,
  SCHED_RESET_ON_FORK: 0x4000_0000,
  MFD_CLOEXEC: 1,
  F_SETFD: 2,
  FD_CLOEXEC: 1,

  CLONE_FS: 0x200,
  CLONE_NEWNS: 0x20000,
  CLONE_NEWNET: 0x40000000,
  CLONE_NEWIPC: 0x08000000,
  CLONE_NEWUTS: 0x04000000,

  MS_RDONLY: 1,
  MS_NOSUID: 2,
  MS_NODEV: 4,
  MS_NOEXEC: 8,
  MS_REMOUNT: 32,
  MS_NOATIME: 1024,
  MS_BIND: 4096,
  MS_REC: 16384,
  MS_PRIVATE: 1 << 18,
  MS_SLAVE: 1 << 19,
  MS_SHARED: 1 << 20,
  MS_RELATIME: 1 << 21,
  MS_STRICTATIME: 1 << 24,
  MNT_DETACH: 2,
  UMOUNT_NOFOLLOW: 8,

  WNOHANG: 1,

  AF_UNIX: 1,
  AF_INET: 2,
  SOCK_STREAM: 1,
  SOCK_DGRAM: 2,
  SOCK_NONBLOCK: 0o4000,
  SOL_SOCKET: 1,
  SCM_RIGHTS: 1,
  MSG_DONTWAIT: 0x40,
  MSG_NOSIGNAL: 0x4000,
  SOCK_CLOEXEC: 0o2000000,
  SIOCGIFFLAGS: 0x8913,
  SIOCSIFFLAGS: 0x8914,
  IFF_UP: 1,
} as const;
