import { codeOf, SluiceError } from '../../errors.ts';
import type { PluginRun } from './types.ts';

/** Calls `work` with an empty list of plugin runs and adds that list to its result, or to its error as `details`. */
export async function collectRuns<T extends object>(
  work: (runs: PluginRun[]) => Promise<T>,
): Promise<T & { plugins: PluginRun[] }> {
  const runs: PluginRun[] = [];
  try {
    return { ...(await work(runs)), plugins: runs };
  } catch (cause) {
    const error =
      cause instanceof SluiceError ? cause : new SluiceError(codeOf(cause), 'the CNI call failed', { cause });
    error.details = { plugins: runs };
    throw error;
  }
}
