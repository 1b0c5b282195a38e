import assert from 'node:assert/strict';
import { test } from 'node:test';
import { JOB_TABLES } from '../../src/pipeline/jobs/tables/all.ts';
import { createContainer } from '../../src/pipeline/jobs/tables/create-container.ts';
import { removeContainer } from '../../src/pipeline/jobs/tables/remove-container.ts';
import { removePod } from '../../src/pipeline/jobs/tables/remove-pod.ts';
import { runPod } from '../../src/pipeline/jobs/tables/run-pod.ts';
import { startContainer } from '../../src/pipeline/jobs/tables/start-container.ts';
import { stopPod } from '../../src/pipeline/jobs/tables/stop-pod.ts';
import { JOB_NAMES, STAGE_NAMES } from '../../src/stages.ts';

/** The parts of a table that its shape is made of. */
interface Shape {
  name: string;
  stages: readonly { name: string; needs: readonly string[]; undo?: unknown }[];
}

const needs = ({ stages }: Shape) => Object.fromEntries(stages.map((stage) => [stage.name, [...stage.needs].sort()]));

/** Everything that must be done before a stage of the table starts. */
function before({ stages }: Shape, name: string): Set<string> {
  const direct = stages.find((stage) => stage.name === name)?.needs ?? assert.fail(`no stage ${name}`);
  return new Set(direct.flatMap((need) => [need, ...before({ name, stages }, need)]));
}

const withUndo = ({ stages }: Shape) => stages.filter(({ undo }) => undo).map(({ name }) => name);

test('every job has one table', () => {
  assert.deepEqual(JOB_TABLES.map(({ name }) => name).sort(), [...JOB_NAMES].sort());
});

test('every stage is in some table', () => {
  const used = new Set<string>(JOB_TABLES.flatMap(({ stages }) => stages.map(({ name }) => name)));
  assert.deepEqual(
    STAGE_NAMES.filter((name) => !used.has(name)),
    [],
  );
});

for (const table of JOB_TABLES as readonly Shape[]) {
  test(`${table.name} ends in one stage that waits for all others`, () => {
    const last = table.stages.at(-1)?.name ?? assert.fail('no stages');
    const others = table.stages.slice(0, -1).map(({ name }) => name);
    assert.deepEqual([...before(table, last)].sort(), others.sort());
  });
}

test('a pod launch: network beside image, files and shim; create needs the namespace’s path alone', () => {
  assert.deepEqual(needs(runPod), {
    reserve: [],
    netns: ['reserve'],
    network: ['netns'],
    image: ['reserve'],
    rootfs: ['image'],
    files: ['reserve'],
    spec: ['image'],
    shim: ['files', 'spec'],
    create: ['netns', 'rootfs', 'shim'],
    start: ['create'],
    ready: ['network', 'start'],
  });
  assert.ok(!before(runPod, 'start').has('network'), 'CNI ADD and runc run side by side');
});

test('whatever a pod launch makes has an undo, and its record is written first', () => {
  assert.deepEqual(withUndo(runPod), ['reserve', 'netns', 'network', 'rootfs', 'files', 'shim', 'create']);
  for (const { name } of runPod.stages.slice(1)) assert.ok(before(runPod, name).has('reserve'), name);
});

test('a pod’s removal takes the network down before its namespace, the shim before its mounts, the record last', () => {
  assert.deepEqual([...before(removePod, 'netns')].sort(), ['kill', 'network']);
  assert.deepEqual([...before(removePod, 'files')].sort(), ['kill', 'shim']);
  assert.deepEqual([...before(removePod, 'rootfs')], ['kill'], 'what has the snapshot mounted has ended');
  assert.deepEqual([...before(removePod, 'forget')].sort(), ['files', 'kill', 'netns', 'network', 'rootfs', 'shim']);
});

test('a pod’s end: processes beside the network, the namespace after it', () => {
  assert.deepEqual(needs(stopPod), {
    kill: [],
    shim: ['kill'],
    network: [],
    netns: ['network'],
    ready: ['netns', 'shim'],
  });
});

test('a container’s creation reads the user while the volumes and the snapshot are made', () => {
  assert.deepEqual(needs(createContainer), {
    reserve: [],
    image: ['reserve'],
    user: ['image'],
    volumes: ['image'],
    rootfs: ['image'],
    paths: ['reserve'],
    spec: ['paths', 'user', 'volumes'],
    shim: ['reserve'],
    files: ['reserve'],
    bundle: ['shim', 'spec'],
    ready: ['bundle', 'files', 'rootfs'],
  });
  assert.deepEqual(withUndo(createContainer), ['reserve', 'volumes', 'rootfs', 'bundle']);
});

test('a container’s removal removes the bundle before the volumes in the same folder, and the record last', () => {
  assert.deepEqual(needs(removeContainer).volumes, ['bundle']);
  assert.ok(before(removeContainer, 'forget').has('rootfs'));
});

test('a container’s log is open before its process exists', () => {
  assert.ok(before(startContainer, 'create').has('io'));
  assert.deepEqual(withUndo(startContainer), ['io', 'create']);
});
