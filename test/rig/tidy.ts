/** What has to be taken away when a signal ends the process: `finally` and `using` do not run then. */

type Tidy = () => Promise<unknown>;

const pending = new Set<Tidy>();
let listening = false;
let ending = false;

/**
 * Has `tidy` run before SIGINT or SIGTERM end the process. Returns the function that withdraws it, once all is tidy.
 */
export function tidyAtSignal(tidy: Tidy): () => void {
  pending.add(tidy);
  if (!listening) {
    listening = true;
    // Not `once`: timeout(1) sends its signal twice, to the child and to the group.
    process.on('SIGINT', () => void end(130));
    process.on('SIGTERM', () => void end(143));
  }
  return () => pending.delete(tidy);
}

/**
 * For a program whose own handlers of SIGINT and SIGTERM lead to its `finally` blocks: none of this file is added, or
 * both would take the same things away at once.
 */
export function handlesSignalsItself(): void {
  listening = true;
}

async function end(status: number): Promise<void> {
  if (ending) return;
  ending = true;
  console.error('rig: taking everything away');
  // Last come, first gone: daemons before the registry they pull from.
  for (const tidy of [...pending].reverse()) {
    try {
      await tidy();
    } catch (error) {
      console.error('rig:', error);
    }
  }
  process.exit(status);
}
