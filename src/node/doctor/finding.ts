/** What `sluice doctor` says about one property of the machine. */
export interface Finding {
  area: 'kernel' | 'cgroups' | 'rights' | 'runtimes' | 'network' | 'limits' | 'disk' | 'neighbours';
  what: string;
  /** `bad`: pods cannot run. `poor`: something is slower, smaller or missing. */
  state: 'good' | 'poor' | 'bad';
  found: string;
  /** What to do about it; left out when it is good. */
  advice?: string;
}

/** Reads the machine's files; tests pass made-up ones. */
export interface MachineFiles {
  /** The text, without white space at the end; undefined when the file is not there or may not be read. */
  read(path: string): string | undefined;
  exists(path: string): boolean;
}

/** A finding that is good when `good` holds. */
export function finding(
  area: Finding['area'],
  what: string,
  good: boolean,
  { found, advice, otherwise = 'poor' }: { found: string; advice: string; otherwise?: 'poor' | 'bad' },
): Finding {
  return good ? { area, what, state: 'good', found } : { area, what, state: otherwise, found, advice };
}
