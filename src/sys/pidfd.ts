import { Fd } from './fd.ts';
import { check, errno, libc, SysError } from './libc.ts';
import { SIGKILL } from './signals.ts';

const SYS_PIDFD_SEND_SIGNAL = 424; // the same number on all architectures, as with every call since 5.0
const SYS_PIDFD_OPEN = 434;
const ESRCH = 3;
const EINVAL = 22;
const ENOSYS = 38;

/**
 * Kills (SIGKILL) the process only if `isIt` still holds once the pid is pinned, so that a number which was given to another
 * process meanwhile is left alone. False when the process is gone or is another one.
 */
export function killPinned(pid: number, isIt: () => boolean): boolean {
  const opened = libc.syscall3(SYS_PIDFD_OPEN, pid, null, 0);
  // Before 5.3 a pid cannot be pinned; the moment between look and kill is then left to luck, as it was for everybody.
  if (opened < 0 && errno() === ENOSYS) return isIt() && libc.kill(pid, SIGKILL) === 0;
  // EINVAL: a thread's id, which no process leader has any more.
  if (opened < 0 && (errno() === ESRCH || errno() === EINVAL)) return false;
  using pidfd = new Fd(check('pidfd_open', Number(opened), `of ${pid}`));
  if (!isIt()) return false;
  if (libc.pidfdSignal(SYS_PIDFD_SEND_SIGNAL, pidfd.number, SIGKILL, null, 0) === 0) return true;
  if (errno() === ESRCH) return false;
  throw new SysError('pidfd_send_signal', errno(), `to ${pid}`);
}
