/**
 *   npm run chaos -- [--kills N] [--parallel P] [--seed S] [--longest MS] [--plain] [--handlers LIST]
 *
 * A storm of kills with a ledger (storm.ts). `--plain` leaves the CNI plugins at their own speed; `--handlers` are
 * the runtime handlers of the pods, separated by commas (actor.ts). Status 1 when a promise was not
 * kept or something is left; the seed that is printed repeats the order of kills.
 */
import { parseArgs } from 'node:util';
import { storm } from './storm.ts';

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '200' },
    parallel: { type: 'string', default: '8' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    longest: { type: 'string', default: '1500' },
    plain: { type: 'boolean', default: false },
    handlers: { type: 'string', default: ',pause,shared' },
  },
});

console.log(`${values.kills} kills, ${values.parallel} actors, seed ${values.seed}`);
const { kills, points, counts, problems, left, restarts, pssBytes } = await storm({
  kills: Number(values.kills),
  parallel: Number(values.parallel),
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
