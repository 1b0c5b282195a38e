/**
 *   npm run chaos -- [--kills N] [--parallel P] [--seed S] [--longest MS] [--plain] [--handlers LIST]
 *   npm run chaos -- --all-points [--parallel P] [--seed S] [--only WORDS] [--midst MS]
 *
 * A storm of kills with a ledger (storm.ts). `--plain` leaves the CNI plugins at their own speed; `--handlers` are
 * the runtime handlers of the pods, separated by commas (actor.ts). Status 1 when a promise was not
 * kept or something is left; the seed that is printed repeats the order of kills.
 *
 * With `--all-points` no storm but a walk (all-points.ts): each point of each table is gone to once, and one that was
 * not reached is a failure. `--only` goes to those whose names have these words ("PullImage layers"). With
 * `--midst` a kill at the beginning of a stage or undo comes up to so many milliseconds later, in the midst of it.
 */
import { parseArgs } from 'node:util';
import { walk } from './all-points.ts';
import { pointsAndRecoveries } from './points.ts';
import { pointName } from './setting.ts';
import { storm } from './storm.ts';

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '200' },
    parallel: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    longest: { type: 'string', default: '1500' },
    plain: { type: 'boolean', default: false },
    handlers: { type: 'string', default: ',pause,shared' },
    'all-points': { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    midst: { type: 'string' },
  },
});
if (values['all-points']) await walkAll();
else await stormAll();

async function walkAll(): Promise<void> {
  const parallel = Number(values.parallel ?? 3);
  const points = pointsAndRecoveries().filter((point) => pointName(point).includes(values.only));
  console.log(`${points.length} points, ${parallel} actors beside, seed ${values.seed}`);
  const { reached, missed, kills, counts, problems, left, restarts, log } = await walk({
    parallel,
    points,
    seed: Number(values.seed),
    midstMs: values.midst === undefined ? undefined : Number(values.midst),
    index: 30,
    onTry: (line, problems) => {
      console.log(line);
      for (const problem of problems) console.log(`   ${problem}`);
    },
  });
  const slowest = Math.max(...restarts, 0).toFixed(1);
  console.log(
    `${kills} kills: ${reached.length} of ${points.length} points reached; ${counts.launches} pods, ${counts.containers} containers, ${counts.pulls} pulls, ${counts.removals} removals acknowledged; slowest restart ${slowest} s`,
  );
  for (const point of missed) console.log(`  not reached: ${pointName(point)}`);
  console.log(`${problems.length} promises not kept, ${left.length} things left`);
  for (const line of [...problems, ...left]) console.log(`  ${line}`);
  if (log) console.log(`the daemon's log is in ${log}`);
  process.exitCode = problems.length + left.length + missed.length > 0 ? 1 : 0;
}

async function stormAll(): Promise<void> {
  const parallel = Number(values.parallel ?? 8);
  console.log(`${values.kills} kills, ${parallel} actors, seed ${values.seed}`);
  const { kills, points, counts, problems, left, restarts, pssBytes } = await storm({
    kills: Number(values.kills),
    parallel,
    seed: Number(values.seed),
    longestMs: Number(values.longest),
    slowPlugins: !values.plain,
    handlers: values.handlers.split(','),
    index: 30,
    onRound: ({ number, how, restart, problems }) => {
      console.log(`${number}. ${how}; served again after ${restart.toFixed(1)} s`);
      for (const problem of problems) console.log(`   ${problem}`);
    },
  });
  const slowest = Math.max(...restarts, 0).toFixed(1);
  console.log(
    `${kills} kills (${points.reached} of ${points.all} points of the tables reached): ${counts.launches} pods, ${counts.containers} containers, ${counts.pulls} pulls, ${counts.removals} removals acknowledged; slowest restart ${slowest} s; PSS at the end ${(pssBytes / 2 ** 20).toFixed(0)} MiB`,
  );
  console.log(`${problems.length} promises not kept, ${left.length} things left`);
  for (const line of [...problems, ...left]) console.log(`  ${line}`);
  process.exitCode = problems.length + left.length > 0 ? 1 : 0;
}
