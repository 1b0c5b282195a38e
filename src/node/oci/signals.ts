import { Signal } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { SIGNALS } from '../../sys/signals.ts';

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
  const number = /^\d+$/.test(upper)
    ? Number(upper)
    : ((SIGNALS as Readonly<Record<string, number>>)[name] ?? realtime(name));
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
