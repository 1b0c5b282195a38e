import assert from 'node:assert/strict';
import { test } from 'node:test';
import { oomInRecords } from '../../src/workers/stats/kernel-log.ts';

const ID = '67dc4e8c382b1a53458f2435a308a0e0dd764ff1ee48d85880bfd21dfb4a344e';
const SCOPE = `/kubepods.slice/kubepods-podu1.slice/sluice-${ID}.scope`;
const SINCE = 100_000_000;

/** As Linux 6.12 writes it. A record may have more lines, which begin with a blank. */
const group = (path: string) =>
  `6,700,120000000,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=sluice-${ID}.scope,mems_allowed=0,oom_memcg=${path},task_memcg=${path},task=dd,pid=812,uid=0\n SUBSYSTEM=x\n`;
const killed = (pid: number, time = 120_000_001, how = 'Memory cgroup out of memory: ') =>
  `3,701,${time},-;${how}Killed process ${pid} (dd) total-vm:70000kB, anon-rss:14000kB, UID:0 oom_score_adj:0\n`;

const victim = { name: ID, pid: 812, sinceUs: SINCE };

test('the line with the cgroup is found, by scope or by folder', () => {
  const nobody = { ...victim, pid: 0 };
  assert.equal(oomInRecords(group(SCOPE), nobody), true);
  assert.equal(oomInRecords(group(`/kubepods/podu1/${ID}`), nobody), true);
  assert.equal(oomInRecords(group(`${SCOPE}/inner`), nobody), true);
  assert.equal(oomInRecords(group(SCOPE), { ...nobody, name: ID.replace('6', '7') }), false);
  // The cpuset may be that of another cgroup; only task_memcg identifies the victim.
  assert.equal(oomInRecords(group('/system.slice/x.service'), nobody), false);
});

test('the line with the pid is found where the other was rate-limited', () => {
  assert.equal(oomInRecords(killed(812), victim), true);
  assert.equal(oomInRecords(killed(812, 120_000_001, 'Out of memory: '), victim), true);
  assert.equal(oomInRecords(killed(8123), victim), false);
  assert.equal(oomInRecords(killed(81), victim), false);
  assert.equal(oomInRecords(killed(0), { ...victim, pid: 0 }), false);
});

test('a kill of an earlier process with the same pid does not count', () => {
  assert.equal(oomInRecords(killed(812, SINCE - 60_000_000), victim), false);
  assert.equal(oomInRecords(killed(812, SINCE - 1_000_000), victim), true, 'the two clocks differ a little');
});

test('a record that a program wrote does not count', () => {
  // Records from user space have another facility (LOG_USER and up), whatever their text.
  assert.equal(oomInRecords(group(SCOPE).replace(/^6,/, '14,'), victim), false);
  assert.equal(oomInRecords(killed(812).replace(/^3,/, '11,'), victim), false);
});

test('nothing in it, or no log: no kill', () => {
  assert.equal(oomInRecords('', victim), false);
  assert.equal(oomInRecords('6,1,5,-;Linux version 6.12\n\n broken\n', victim), false);
});
