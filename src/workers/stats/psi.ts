/** Pressure stall information (Documentation/accounting/psi.rst). */
import { readText } from './files.ts';

export interface Pressure {
  /** Total nanoseconds (the kernel counts microseconds). */
  totalNs: bigint;
  /** Percent over the last 10, 60 and 300 seconds. */
  avg10: number;
  avg60: number;
  avg300: number;
}

export interface Psi {
  /** At least one task was stalled. */
  some: Pressure;
  /** All tasks were stalled. For CPU the kernel has it since 5.13; zero before. */
  full: Pressure;
}

/** Parses a *.pressure file; undefined when it has no "some" line. */
export function parsePsi(text: string): Psi | undefined {
  const lines = new Map<string, Pressure>();
  for (const line of text.split('\n')) {
    const [kind = '', ...fields] = line.split(' ');
    const values = new Map(fields.map((field) => field.split('=', 2) as [string, string]));
    const total = values.get('total');
    if (total === undefined) continue;
    const average = (name: string) => Number(values.get(name) ?? 0);
    lines.set(kind, {
      totalNs: BigInt(total) * 1000n,
      avg10: average('avg10'),
      avg60: average('avg60'),
      avg300: average('avg300'),
    });
  }
  const some = lines.get('some');
  if (!some) return undefined;
  return { some, full: lines.get('full') ?? { totalNs: 0n, avg10: 0, avg60: 0, avg300: 0 } };
}

/** Pressure of a cgroup; undefined where the kernel has no PSI, or has it disabled (psi=0). */
export function readPsi(folder: string, resource: 'cpu' | 'memory' | 'io'): Psi | undefined {
  const text = readText(`${folder}/${resource}.pressure`);
  return text === undefined ? undefined : parsePsi(text);
}
