import { Signal } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';

/** Signal numbers of Linux on the architectures that Node supports (signal(7)). */
const NUMBERS: Readonly<Record<string, number>> = {
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
};

/** SIGRTMIN as in glibc, which reserves the first two real-time signals (32 and 33). */
const RTMIN = 34;
const RTMAX = 64;

/**
 * Number of a signal, which may be written "SIGTERM", "term", "15", "SIGRTMIN+3" or "RTMAX-1".
 * Throws INVALID_REQUEST for anything else.
 */
export function signalNumber(text: string): number {
  const upper = text.trim().toUpperCase();
  const name = upper.startsWith('SIG') ? upper : `SIG${upper}`;
  const number = /^\d+$/.test(upper) ? Number(upper) : (NUMBERS[name] ?? realtime(name));
  if (number === undefined || number < 1 || number > RTMAX) {
    throw new SluiceError('INVALID_REQUEST', `stop signal: "${text}" is not a signal`);
  }
  return number;
}

function realtime(name: string): number | undefined {
  const [, end, sign, digits] = /^SIGRT(MIN|MAX)(?:([+-])(\d+))?$/.exec(name) ?? [];
  if (end === undefined) return undefined;
  const number = (end === 'MIN' ? RTMIN : RTMAX) + Number(digits ?? 0) * (sign === '-' ? -1 : 1);
  return number >= RTMIN && number <= RTMAX ? number : undefined;
}

/**
 * Name of a value of CRI's enum, such as "SIGRTMIN+1"; undefined for SIGNAL_RUNTIME_DEFAULT. Throws INVALID_REQUEST for
 * an unknown value.
 */
export function signalName(signal: number): string | undefined {
  if (signal === Signal.SIGNAL_RUNTIME_DEFAULT) return undefined;
  const constant = Object.entries(Signal).find(([, value]) => value === signal)?.[0];
  if (constant === undefined) throw new SluiceError('INVALID_REQUEST', `stop_signal: unknown value ${signal}`);
  return constant.slice('SIGNAL_'.length).replace('PLUS', '+').replace('MINUS', '-');
}

/**
 * Value of CRI's enum for a signal, for ContainerStatus.stop_signal. CRI names the upper half of the real-time signals
 * relative to RTMAX. For a number with two names (SIGIOT, SIGABRT) the result is the name in `text`.
 */
export function criSignal(text: string): Signal {
  const number = signalNumber(text);
  const upper = text.trim().toUpperCase();
  const written = upper.startsWith('SIG') ? upper : `SIG${upper}`;
  let found: Signal | undefined;
  for (const value of Object.values(Signal)) {
    const name = signalName(value);
    if (name === undefined) continue;
    if (name === written) return value;
    if (signalNumber(name) === number) found ??= value;
  }
  return found ?? Signal.SIGNAL_RUNTIME_DEFAULT;
}

/**
 * The signal that StopContainer sends first, in a form that {@link signalNumber} accepts: that of the request, else
 * that of the image, else SIGTERM. Throws INVALID_REQUEST when the image's is not a signal.
 */
export function stopSignal(asked: number, image: string | undefined): string {
  const name = signalName(asked);
  if (name !== undefined) return name;
  if (image === undefined || image === '') return 'SIGTERM';
  signalNumber(image);
  return image;
}
