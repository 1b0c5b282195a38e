import { nowNs } from '../../clock.ts';
import type { ContainerRow } from '../../node/store/rows.ts';
import type { Node } from './context.ts';

/** Records and tells an end that nobody saw: of a start that failed, or of what was lost with its shim. `code`: the exit code. */
export function ended(
  row: ContainerRow,
  node: Node,
  { code, reason, message }: { code: number; reason: string; message: string },
): void {
  row.state = 'exited';
  row.exitCode = code;
  row.reason = reason;
  row.message = message;
  row.finishedAt = nowNs();
  node.store.containers.put(row);
  node.events.publish('stopped', row.id, row.sandbox);
}
