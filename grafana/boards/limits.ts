import { board, lines, number } from '../board.ts';
import { gauge, legend, quantile, rate } from '../query.ts';

const share = (used: string, limit: string) => `${used} / ${limit}`;

export const limits = board({
  name: 'limits',
  title: 'Sluice / Limits and saturation',
  description: 'Which bound holds launches back: admission, the limit of a stage, or the worker threads.',
  rows: [
    {
      title: 'Admission',
      panels: [
        number({
          title: 'Launch lane',
          description: 'Share of the places for launches that are taken (max_running).',
          unit: 'percentunit',
          thresholds: [0.8, 1],
          width: 6,
          targets: [
            {
              expr: share(gauge('laneRunning', [], { lane: 'launch' }), gauge('laneLimit', [], { lane: 'launch' })),
              legend: 'used',
            },
          ],
        }),
        number({
          title: 'Launch queue',
          description: 'Launches that wait for admission.',
          unit: 'short',
          thresholds: [50, 500],
          width: 6,
          targets: [{ expr: gauge('laneQueued', [], { lane: 'launch' }), legend: 'queued' }],
        }),
        number({
          title: 'Queue full',
          description:
            'Share of the places in the launch queue that are taken (max_queued). At 100 % the next launch is refused.',
          unit: 'percentunit',
          thresholds: [0.5, 0.9],
          width: 6,
          targets: [
            {
              expr: share(gauge('laneQueued', [], { lane: 'launch' }), gauge('laneQueueLimit', [], { lane: 'launch' })),
              legend: 'used',
            },
          ],
        }),
        number({
          title: 'Refused',
          description: 'Jobs refused per second, all lanes.',
          unit: 'ops',
          thresholds: [0.01, 1],
          width: 6,
          targets: [{ expr: rate('admission', [], { verdict: 'refused' }), legend: 'refused' }],
        }),
        lines({
          title: 'Running by lane',
          description: 'Jobs at work. Each lane has places of its own, so that teardowns never wait behind launches.',
          unit: 'short',
          targets: [
            { expr: gauge('laneRunning', ['lane']), legend: legend('lane') },
            { expr: gauge('laneLimit', ['lane']), legend: `limit ${legend('lane')}` },
          ],
        }),
        lines({
          title: 'Queued by lane',
          description: 'Jobs that wait for admission.',
          unit: 'short',
          targets: [{ expr: gauge('laneQueued', ['lane']), legend: legend('lane') }],
        }),
        lines({
          title: 'Verdicts by lane',
          description: 'Jobs refused, expired or gone per second: work that was requested but not done.',
          unit: 'ops',
          targets: [
            {
              expr: rate('admission', ['lane', 'verdict'], { verdict: '=~"refused|expired|gone"' }),
              legend: `${legend('lane')} ${legend('verdict')}`,
            },
          ],
        }),
        lines({
          title: 'Wait for admission p99',
          description: 'Time in the queue of admission, by CRI call.',
          unit: 's',
          targets: [{ expr: quantile(0.99, 'stageQueue', ['job'], { stage: 'admit' }), legend: legend('job') }],
        }),
        lines({
          title: 'Wait for locks p99',
          description:
            'Time for which an admitted job waits until other jobs on the same pod or container are done: a stop behind creations in the pod, for example.',
          unit: 's',
          targets: [
            { expr: quantile(0.99, 'lockWait', ['lock', 'mode']), legend: `${legend('lock')} ${legend('mode')}` },
          ],
        }),
        lines({
          title: 'Jobs that wait for a lock',
          description: 'They keep their place in the lane.',
          unit: 'short',
          targets: [{ expr: gauge('lockWaiting', ['lock']), legend: legend('lock') }],
        }),
      ],
    },
    {
      title: 'Stages',
      panels: [
        lines({
          title: 'Saturation by stage',
          description:
            'Share of a stage’s limit that is in use. A stage at 100 % with a queue is what holds launches back.',
          unit: 'percentunit',
          targets: [
            { expr: share(gauge('stageRunning', ['stage']), gauge('stageLimit', ['stage'])), legend: legend('stage') },
          ],
        }),
        lines({
          title: 'Queued by stage',
          description: 'Stages whose needs are met and that wait for the limit.',
          unit: 'short',
          stack: true,
          targets: [{ expr: gauge('stageQueued', ['stage']), legend: legend('stage') }],
        }),
        lines({
          title: 'Running by stage',
          description: 'Stages at work, over all jobs.',
          unit: 'short',
          stack: true,
          targets: [{ expr: gauge('stageRunning', ['stage']), legend: legend('stage') }],
        }),
        lines({
          title: 'Queue wait p99 by stage',
          description: 'What the limit of each stage costs.',
          unit: 's',
          logarithmic: true,
          targets: [{ expr: quantile(0.99, 'stageQueue', ['stage'], { stage: '!="admit"' }), legend: legend('stage') }],
        }),
      ],
    },
    {
      title: 'Worker threads',
      panels: [
        lines({
          title: 'Calls at work by pool',
          description:
            'Calls that worker threads work on, and the threads. The net and shim pools wait for processes without holding a thread, so they have more calls than threads.',
          unit: 'short',
          targets: [
            { expr: gauge('poolRunning', ['pool']), legend: legend('pool') },
            { expr: gauge('poolThreads', ['pool']), legend: `threads ${legend('pool')}` },
          ],
        }),
        lines({
          title: 'Calls queued by pool',
          description:
            'Calls that wait for a thread. More than a few for long: the pool is too small for its stages’ limits.',
          unit: 'short',
          targets: [{ expr: gauge('poolQueued', ['pool']), legend: legend('pool') }],
        }),
      ],
    },
  ],
});
