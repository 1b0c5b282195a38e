/**
 * The form of `containerEdits` in CDI files. Drivers write these files, with whatever their version makes of them, and
 * what is not checked here would fail a container's creation half-way, or reach the runtime. Source:
 * https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
 */
import { isObject } from '../../workers/json.ts';

type Check = (value: unknown) => boolean;

const text: Check = (value) => typeof value === 'string';
const path: Check = (value) => typeof value === 'string' && value !== '' && !value.includes('\0');
const number: Check = (value) => Number.isSafeInteger(value);
const id: Check = (value) => Number.isInteger(value) && Number(value) >= 0 && Number(value) < 2 ** 32;
const variable: Check = (value) => typeof value === 'string' && value.indexOf('=') > 0;
const oneOf =
  (...words: string[]): Check =>
  (value) =>
    typeof value === 'string' && words.includes(value);
const listOf =
  (check: Check): Check =>
  (value) =>
    Array.isArray(value) && value.every(check);

/** Fields of one object: those that it must have, and those that it may have. Unknown ones are ignored, as in Go. */
interface Fields {
  needs?: Record<string, Check>;
  may?: Record<string, Check>;
}

const EDITS: Fields = {
  may: {
    env: listOf(variable),
    deviceNodes: Array.isArray,
    mounts: Array.isArray,
    hooks: Array.isArray,
    intelRdt: isObject,
    additionalGids: listOf(id),
  },
};

const ITEMS: Record<string, Fields> = {
  deviceNodes: {
    needs: { path },
    may: {
      hostPath: path,
      type: oneOf('b', 'c', 'u', 'p'),
      major: number,
      minor: number,
      fileMode: id,
      permissions: (value) => typeof value === 'string' && /^[rwm]*$/.test(value),
      uid: id,
      gid: id,
    },
  },
  mounts: { needs: { hostPath: path, containerPath: path }, may: { options: listOf(text), type: text } },
  hooks: {
    needs: {
      hookName: oneOf('prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop'),
      path,
    },
    may: { args: listOf(text), env: listOf(variable), timeout: number },
  },
};

/**
 * What is wrong with the edits, as "mounts[0].hostPath is not valid"; undefined when nothing is. Absent edits are fine.
 */
export function editsProblem(edits: unknown): string | undefined {
  if (edits === undefined) return undefined;
  const problem = fieldsProblem(edits, EDITS, 'containerEdits');
  if (problem) return problem;
  for (const [list, fields] of Object.entries(ITEMS)) {
    const items = (edits as Record<string, unknown[] | undefined>)[list] ?? [];
    for (const [index, item] of items.entries()) {
      const wrong = fieldsProblem(item, fields, `${list}[${index}]`);
      if (wrong) return wrong;
    }
  }
  return undefined;
}

function fieldsProblem(value: unknown, { needs = {}, may = {} }: Fields, what: string): string | undefined {
  if (!isObject(value)) return `${what} is not an object`;
  for (const [name, check] of Object.entries(needs)) {
    if (!check(value[name])) return `${what}.${name} is missing or not valid`;
  }
  for (const [name, check] of Object.entries(may)) {
    if (Object.hasOwn(value, name) && !check(value[name])) return `${what}.${name} is not valid`;
  }
  return undefined;
}
