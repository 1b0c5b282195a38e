import type { RuntimeConfig } from '../../node/config/config.ts';
import type { ImageRow } from '../../node/images/rows.ts';
import type { Shim } from '../../node/shims/shims.ts';
import type { SandboxRow } from '../../node/store/rows.ts';
import type { Node } from './context.ts';

/** What a pod launch knows while it runs. Whatever an undo needs stands in `row`; the rest may be forgotten at any moment. */
export interface PodLaunch {
  node: Node;
  row: SandboxRow;
  runtime: RuntimeConfig;
  image?: ImageRow;
  /** config.json, as text. */
  spec?: string;
  shim?: Shim;
}

/** The value of an optional field that an earlier stage has filled; its absence is a wrong `needs` in the table. */
export function filled<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new Error(`the stage that makes the ${what} has not run`);
  return value;
}
