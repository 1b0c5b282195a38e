import { Fd } from './fd.ts';
import { check, errno, libc, SysError } from './libc.ts';
import { SIGKILL } from './signals.ts';

const SYS_PIDFD_SEND_SIGNAL = 424; // system calls since 5.0 have the same number on all architectures
const SYS_PIDFD_OPEN = 434;
const ESRCH = 3;
const EINVAL = 22;
const ENOSYS = 38;

/** Sends SIGKILL as {@link signalPinned} sends a signal. */
export const killPinned = (pid: number, isIt: () => boolean): boolean => signalPinned(pid, SIGKILL, isIt);

/**
 * Sends a signal to `pid` if `isIt` still holds once a pidfd refers to the process, so that a process which got the
 * same pid later does not get it. False when the process has ended or is another one. Throws {@link SysError}.
 */
export function signalPinned(pid: number, signal: number, isIt: () => boolean): boolean {
  const opened = libc.syscall3(SYS_PIDFD_OPEN, pid, null, 0);
  // Kernels before 5.3 have no pidfd_open: the pid could be reused between the check and the kill.
  if (opened < 0 && errno() === ENOSYS) return isIt() && libc.kill(pid, signal) === 0;
  // EINVAL: the number is now a thread's id and no process's.
  if (opened < 0 && (errno() === ESRCH || errno() === EINVAL)) return false;
  using pidfd = new Fd(check('pidfd_open', Number(opened), `of ${pid}`));
  if (!isIt()) return false;
  if (libc.pidfdSignal(SYS_PIDFD_SEND_SIGNAL, pidfd.number, signal, null, 0) === 0) return true;
  if (errno() === ESRCH) return false;
  throw new SysError('pidfd_send_signal', errno(), `to ${pid}`);
}
