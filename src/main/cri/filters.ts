/**
 * The filters of the List* calls. CRI: an absent filter matches everything, an id may be a prefix, labels are an AND of
 * equalities, and an unknown id gives an empty list, never NotFound.
 */
import type {
  ContainerFilter,
  ContainerState,
  ContainerStatsFilter,
  PodSandboxFilter,
  PodSandboxState,
  PodSandboxStatsFilter,
} from '../../../proto/gen/cri.ts';

type Labels = { [key: string]: string };

export interface SandboxFacts {
  id: string;
  labels: Labels;
  state: PodSandboxState;
}

export interface ContainerFacts {
  id: string;
  /** Id of its pod. */
  sandbox: string;
  labels: Labels;
  state: ContainerState;
}

export function matchesSandbox(filter: PodSandboxFilter | undefined, sandbox: SandboxFacts): boolean {
  if (!filter) return true;
  return (
    hasPrefix(sandbox.id, filter.id) &&
    (filter.state === undefined || filter.state.state === sandbox.state) &&
    hasLabels(sandbox.labels, filter.labelSelector)
  );
}

export function matchesContainer(filter: ContainerFilter | undefined, container: ContainerFacts): boolean {
  if (!filter) return true;
  return (
    (filter.state === undefined || filter.state.state === container.state) && matchesContainerStats(filter, container)
  );
}

/** For ListContainerStats; the caller passes only containers whose state has stats. */
export function matchesContainerStats(
  filter: ContainerStatsFilter | undefined,
  container: Omit<ContainerFacts, 'state'>,
): boolean {
  if (!filter) return true;
  return (
    hasPrefix(container.id, filter.id) &&
    hasPrefix(container.sandbox, filter.podSandboxId) &&
    hasLabels(container.labels, filter.labelSelector)
  );
}

export function matchesSandboxStats(
  filter: PodSandboxStatsFilter | undefined,
  sandbox: Omit<SandboxFacts, 'state'>,
): boolean {
  if (!filter) return true;
  return hasPrefix(sandbox.id, filter.id) && hasLabels(sandbox.labels, filter.labelSelector);
}

/** The empty prefix matches every id. */
const hasPrefix = (id: string, prefix: string) => id.startsWith(prefix);

function hasLabels(labels: Labels, selector: Labels): boolean {
  return Object.entries(selector).every(([key, value]) => Object.hasOwn(labels, key) && labels[key] === value);
}
