import { Signal } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { SIGNALS } from '../../sys/signals.ts';

/** As glibc counts them: the first two real-time signals are its own. */
const RTMIN = 34;
const RTMAX = 64;

/**
 * The number of a signal as images and people write it: "SIGTERM", "term", "15", "SIGRTMIN+3", "RTMAX-1".
 * Throws INVALID_REQUEST for anything else.
 */
export function signalNumber(text: string): number {
  const upper = text.trim().toUpperCase();
  const name = upper.startsWith('SIG') ? upper : `SIG${upper}`;
  const number = /^\d+$/.test(upper)
    ? Number(upper)
    : ((SIGNALS as Readonly<Record<string, number>>)[name] ?? realtime(name));
  if (number === undefined || number < 1 || number > RTMAX) {
    throw new SluiceError('INVALID_REQUEST', `stop signal: "${text}" is no signal`);
  }
  return number;
}

function realtime(name: string): number | undefined {
  const [, end, sign, digits] = /^SIGRT(MIN|MAX)(?:([+-])(\d+))?$/.exec(name) ?? [];
  if (end === undefined) return undefined;
  const number = (end === 'MIN' ? RTMIN : RTMAX) + Number(digits ?? 0) * (sign === '-' ? -1 : 1);
  return number >= RTMIN && number <= RTMAX ? number : undefined;
}

/** The usual name of CRI's signal ("SIGRTMIN+1"); undefined for "the runtime's default". Throws INVALID_REQUEST for an unknown value. */
export function signalName(signal: number): string | undefined {
  if (signal === Signal.SIGNAL_RUNTIME_DEFAULT) return undefined;
  const constant = Object.entries(Signal).find(([, value]) => value === signal)?.[0];
  if (constant === undefined) throw new SluiceError('INVALID_REQUEST', `stop_signal: unknown value ${signal}`);
  return constant.slice('SIGNAL_'.length).replace('PLUS', '+').replace('MINUS', '-');
}

/**
 * CRI's value of a signal, for ContainerStatus.stop_signal. CRI counts the upper half of the real-time signals from RTMAX, and of two
 * names of one number (SIGIOT, SIGABRT) it gets the one that was written.
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

/** What StopContainer sends first: the request's signal, else the image's, else SIGTERM, as {@link signalNumber} reads it. */
export function stopSignal(asked: number, image: string | undefined): string {
  const name = signalName(asked);
  if (name !== undefined) return name;
  if (image === undefined || image === '') return 'SIGTERM';
  signalNumber(image);
  return image;
}
