import { check, libc } from './libc.ts';

/** Signal numbers of Linux on the architectures that Node runs on (signal(7)), by name. */
export const SIGNALS = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGILL: 4,
  SIGTRAP: 5,
  SIGABRT: 6,
  SIGIOT: 6,
  SIGBUS: 7,
  SIGFPE: 8,
  SIGKILL: 9,
  SIGUSR1: 10,
  SIGSEGV: 11,
  SIGUSR2: 12,
  SIGPIPE: 13,
  SIGALRM: 14,
  SIGTERM: 15,
  SIGSTKFLT: 16,
  SIGCHLD: 17,
  SIGCLD: 17,
  SIGCONT: 18,
  SIGSTOP: 19,
  SIGTSTP: 20,
  SIGTTIN: 21,
  SIGTTOU: 22,
  SIGURG: 23,
  SIGXCPU: 24,
  SIGXFSZ: 25,
  SIGVTALRM: 26,
  SIGPROF: 27,
  SIGWINCH: 28,
  SIGIO: 29,
  SIGPOLL: 29,
  SIGPWR: 30,
  SIGSYS: 31,
} as const;

export const { SIGKILL } = SIGNALS;

/** Size of sigset_t in the C library. */
const SET_BYTES = 128;
const SIG_UNBLOCK = 1;

/** Lets this thread, and the threads that it makes from now on, receive a signal that was blocked. */
export function unblockSignal(signal: number): void {
  const set = Buffer.alloc(SET_BYTES);
  check('sigaddset', libc.sigaddset(set, signal));
  // pthread_sigmask returns the errno, which is EINVAL for a wrong `how` alone.
  check('pthread_sigmask', -libc.pthreadSigmask(SIG_UNBLOCK, set, null));
}
