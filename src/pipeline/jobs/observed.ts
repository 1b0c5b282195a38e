import type { JobRun } from '../engine/observer.ts';
import type { Node } from './context.ts';

/** Runs a job that needs no admission (it is part of another, or nobody's), with its beginning and end told. */
export async function observed(node: Node, job: JobRun, work: () => Promise<void>): Promise<void> {
  node.observer.jobStarted(job);
  try {
    await work();
    node.observer.jobEnded(job, undefined);
  } catch (error) {
    node.observer.jobEnded(job, error as Error);
    throw error;
  }
}
