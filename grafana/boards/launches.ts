import { board, heatmap, lines, number } from '../board.ts';
import { buckets, gauge, increase, legend, mean, quantile, rate } from '../query.ts';

const LAUNCH = { job: 'RunPodSandbox' } as const;
const OK = { ...LAUNCH, outcome: 'ok' } as const;
const CALLS = { job: '=~"$call"' };

const failed = `${rate('jobDuration', [], { ...LAUNCH, outcome: 'error' })} / ${rate('jobDuration', [], LAUNCH)}`;

export const launches = board({
  name: 'launches',
  title: 'Sluice / Launches',
  description: 'How fast pods start, how many, and what goes wrong. Start here.',
  choose: [{ name: 'call', label: 'Call', metric: 'jobDuration', values: 'job' }],
  rows: [
    {
      title: 'Now',
      panels: [
        number({
          title: 'Launches',
          description: 'Pods launched per second, failures included.',
          unit: 'ops',
          targets: [{ expr: rate('jobDuration', [], LAUNCH), legend: 'launches' }],
        }),
        number({
          title: 'Launch p50',
          description: 'Half of the successful pod launches took less than this, waiting for admission included.',
          unit: 's',
          thresholds: [1, 5],
          targets: [{ expr: quantile(0.5, 'jobDuration', [], OK), legend: 'p50' }],
        }),
        number({
          title: 'Launch p99',
          description: 'Kubernetes’ own objective is 5 s for a pod without images to pull.',
          unit: 's',
          thresholds: [2.5, 5],
          targets: [{ expr: quantile(0.99, 'jobDuration', [], OK), legend: 'p99' }],
        }),
        number({
          title: 'Failed',
          description: 'Share of the pod launches that failed.',
          unit: 'percentunit',
          thresholds: [0.01, 0.05],
          targets: [{ expr: failed, legend: 'failed' }],
        }),
        number({
          title: 'Refused',
          description: 'Jobs refused per second because the queue of their lane was full (max_queued).',
          unit: 'ops',
          thresholds: [0.01, 1],
          targets: [{ expr: rate('admission', [], { verdict: 'refused' }), legend: 'refused' }],
        }),
        number({
          title: 'Pods ready',
          description: 'Pods that run.',
          unit: 'short',
          targets: [{ expr: gauge('pods', [], { state: 'ready' }), legend: 'ready' }],
        }),
      ],
    },
    {
      title: 'Pod launches',
      panels: [
        lines({
          title: 'Launches by outcome',
          description: 'Pods launched per second, by outcome.',
          unit: 'ops',
          stack: true,
          targets: [{ expr: rate('jobDuration', ['outcome'], LAUNCH), legend: legend('outcome') }],
        }),
        lines({
          title: 'Launch time',
          description:
            'From the call to the answer, waiting included, successes only. Points are traces of slow launches.',
          unit: 's',
          logarithmic: true,
          targets: [
            { expr: quantile(0.99, 'jobDuration', [], OK), legend: 'p99', exemplar: true },
            { expr: quantile(0.9, 'jobDuration', [], OK), legend: 'p90' },
            { expr: quantile(0.5, 'jobDuration', [], OK), legend: 'p50' },
            { expr: mean('jobDuration', [], OK), legend: 'mean' },
          ],
        }),
        heatmap({
          title: 'Where launch times lie',
          description:
            'All pod launches, failures included, by how long they took. Two bands are two kinds of launches (with and without a pull, say).',
          unit: 's',
          expr: buckets('jobDuration', LAUNCH),
        }),
        lines({
          title: 'Pods by state',
          description: 'Records by state. Pods that stay in creating or removing are stuck: see Reliability.',
          unit: 'short',
          stack: true,
          targets: [{ expr: gauge('pods', ['state']), legend: legend('state') }],
        }),
      ],
    },
    {
      title: 'Admission',
      panels: [
        lines({
          title: 'Admission verdicts',
          description:
            'What happened to jobs at the entrance. Joined: the retry of a launch in flight got that launch. Expired, gone: the caller’s deadline passed or he hung up while the job was queued, and no work was done.',
          unit: 'ops',
          targets: [{ expr: rate('admission', ['verdict']), legend: legend('verdict') }],
        }),
        lines({
          title: 'Wait for admission',
          description: 'Time in the queue before a job may run, by call.',
          unit: 's',
          targets: [
            {
              expr: quantile(0.99, 'stageQueue', ['job'], { ...CALLS, stage: 'admit' }),
              legend: `p99 ${legend('job')}`,
            },
          ],
        }),
      ],
    },
    {
      title: 'All calls that change something',
      panels: [
        lines({
          title: 'Calls',
          description: 'Jobs that ended per second, by CRI call.',
          unit: 'ops',
          targets: [{ expr: rate('jobDuration', ['job'], CALLS), legend: legend('job') }],
        }),
        lines({
          title: 'Call time p99',
          description: 'From the call to the answer, by CRI call, failures included.',
          unit: 's',
          logarithmic: true,
          targets: [{ expr: quantile(0.99, 'jobDuration', ['job'], CALLS), legend: legend('job') }],
        }),
        lines({
          title: 'Failures',
          description:
            'Jobs that failed, by CRI call. The log has one line for each, with its stage and the plugin’s or runtime’s own words.',
          unit: 'short',
          bars: true,
          stack: true,
          targets: [{ expr: increase('jobDuration', ['job'], { ...CALLS, outcome: 'error' }), legend: legend('job') }],
        }),
        lines({
          title: 'Containers by state',
          description: 'Container records by state.',
          unit: 'short',
          stack: true,
          targets: [{ expr: gauge('containers', ['state']), legend: legend('state') }],
        }),
        lines({
          title: 'Container exits',
          description: 'How containers ended.',
          unit: 'short',
          bars: true,
          stack: true,
          targets: [{ expr: increase('exits', ['result']), legend: legend('result') }],
        }),
        lines({
          title: 'Exec, attach, port-forward',
          description:
            'Processes started in containers per second by kind and outcome (probes are sync), and open streaming sessions.',
          unit: 'short',
          targets: [
            { expr: rate('execs', ['kind', 'outcome']), legend: `exec ${legend('kind')} ${legend('outcome')}` },
            { expr: gauge('streams', ['kind']), legend: `open ${legend('kind')}` },
          ],
        }),
      ],
    },
  ],
});
