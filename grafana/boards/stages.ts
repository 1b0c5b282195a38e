import { board, heatmap, lines } from '../board.ts';
import { buckets, busy, increase, legend, mean, quantile } from '../query.ts';

const CHOSEN = { job: '=~"$call"', stage: '=~"$stage"' };

export const stages = board({
  name: 'stages',
  title: 'Sluice / Stages',
  description:
    'Which stage of a launch takes the time, and whether it works or waits. docs/operate/stages.md says what each stage does.',
  choose: [
    { name: 'call', label: 'Call', metric: 'stageDuration', values: 'job' },
    { name: 'stage', label: 'Stage', metric: 'stageQueue', values: 'stage' },
  ],
  rows: [
    {
      title: 'Work and waiting',
      panels: [
        lines({
          title: 'Work p99 by stage',
          description: 'The work itself, without any waiting. Stages overlap: their sum is more than the launch.',
          unit: 's',
          logarithmic: true,
          targets: [
            { expr: quantile(0.99, 'stageDuration', ['stage'], CHOSEN), legend: legend('stage'), exemplar: true },
          ],
        }),
        lines({
          title: 'Queue wait p99 by stage',
          description:
            'From the moment that all a stage needs is done to its start. High here and low on the left: the limit of this stage is too small, or the machine too busy.',
          unit: 's',
          logarithmic: true,
          targets: [{ expr: quantile(0.99, 'stageQueue', ['stage'], CHOSEN), legend: legend('stage') }],
        }),
        lines({
          title: 'Work p50 by stage',
          description: 'The work of the median job.',
          unit: 's',
          logarithmic: true,
          targets: [{ expr: quantile(0.5, 'stageDuration', ['stage'], CHOSEN), legend: legend('stage') }],
        }),
        lines({
          title: 'Queue wait p50 by stage',
          description: 'The waiting of the median job.',
          unit: 's',
          logarithmic: true,
          targets: [{ expr: quantile(0.5, 'stageQueue', ['stage'], CHOSEN), legend: legend('stage') }],
        }),
        lines({
          title: 'Mean work, stacked',
          description:
            'Mean work of each stage of the chosen calls, one on the other: what a launch would take if nothing overlapped.',
          unit: 's',
          stack: true,
          targets: [{ expr: mean('stageDuration', ['stage'], CHOSEN), legend: legend('stage') }],
        }),
        lines({
          title: 'Mean queue wait, stacked',
          description: 'Mean waiting of each stage of the chosen calls, one on the other.',
          unit: 's',
          stack: true,
          targets: [{ expr: mean('stageQueue', ['stage'], CHOSEN), legend: legend('stage') }],
        }),
      ],
    },
    {
      title: 'Heat maps of the chosen stages',
      panels: [
        heatmap({
          title: 'Work',
          description: 'How long the work of the chosen stages took. Choose one stage above.',
          unit: 's',
          expr: buckets('stageDuration', CHOSEN),
        }),
        heatmap({
          title: 'Queue wait',
          description: 'How long the chosen stages waited for their limit.',
          unit: 's',
          expr: buckets('stageQueue', CHOSEN),
        }),
      ],
    },
    {
      title: 'Load and failures',
      panels: [
        lines({
          title: 'Busy by stage',
          description: 'Seconds of work per second: how many of each stage are at work on average.',
          unit: 'short',
          stack: true,
          targets: [{ expr: busy('stageDuration', ['stage'], CHOSEN), legend: legend('stage') }],
        }),
        lines({
          title: 'Failures by stage',
          description: 'Stages that failed. What was started by then is undone.',
          unit: 'short',
          bars: true,
          stack: true,
          targets: [
            {
              expr: increase('stageDuration', ['job', 'stage'], { ...CHOSEN, outcome: 'error' }),
              legend: `${legend('job')} ${legend('stage')}`,
            },
          ],
        }),
        lines({
          title: 'Undo p99 by stage',
          description: 'Undo of a stage, in failed launches, removals and recoveries.',
          unit: 's',
          targets: [
            { expr: quantile(0.99, 'undoDuration', ['stage'], { stage: '=~"$stage"' }), legend: legend('stage') },
          ],
        }),
        lines({
          title: 'Undos',
          description: 'Undos by outcome. A failed undo is kept and retried: see Reliability.',
          unit: 'short',
          bars: true,
          stack: true,
          targets: [
            { expr: increase('undoDuration', ['outcome'], { stage: '=~"$stage"' }), legend: legend('outcome') },
          ],
        }),
      ],
    },
  ],
});
