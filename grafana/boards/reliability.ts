import { board, lines, number } from '../board.ts';
import { gauge, gaugePerNode, increase, legend, quantile, rate } from '../query.ts';

export const reliability = board({
  name: 'reliability',
  title: 'Sluice / Reliability',
  description: 'What was left behind, what is being cleaned up, and how restarts went.',
  rows: [
    {
      title: 'Now',
      panels: [
        number({
          title: 'Clean-ups pending',
          description:
            'Clean-ups that failed and are retried. Each may hold an address, a mount or a shim. Above 0 for long: see SluiceCleanupPending in docs/operate/alerts.md.',
          unit: 'short',
          thresholds: [1, 10],
          targets: [{ expr: gauge('cleanupsPending'), legend: 'pending' }],
        }),
        number({
          title: 'Leaks',
          description: 'Resources without an owner found in the last interval.',
          unit: 'short',
          thresholds: [1, 1],
          targets: [{ expr: increase('leaks'), legend: 'leaks' }],
        }),
        number({
          title: 'Shims unknown',
          description: 'Shims that did not answer in time when the daemon looked. They are never killed for it.',
          unit: 'short',
          thresholds: [1, 5],
          targets: [{ expr: gauge('shims', [], { state: 'unknown' }), legend: 'unknown' }],
        }),
        number({
          title: 'Shims dead',
          description: 'Shims that ended by themselves and whose pods are to be cleaned up.',
          unit: 'short',
          thresholds: [1, 5],
          targets: [{ expr: gauge('shims', [], { state: 'dead' }), legend: 'dead' }],
        }),
        number({
          title: 'Longest restore',
          description: 'The longest that a daemon needed at its last start to find its pods again.',
          unit: 's',
          thresholds: [5, 30],
          targets: [{ expr: `max(${gaugePerNode('restoreDuration')})`, legend: 'restore' }],
        }),
        number({
          title: 'Undo failures',
          description: 'Undos that failed per second.',
          unit: 'ops',
          thresholds: [0.001, 0.1],
          targets: [{ expr: rate('undoDuration', [], { outcome: 'error' }), legend: 'failed' }],
        }),
      ],
    },
    {
      title: 'Clean-up',
      panels: [
        lines({
          title: 'Pending clean-ups by node',
          description: 'They must go back to 0 by themselves; the log says why they fail.',
          unit: 'short',
          targets: [{ expr: gaugePerNode('cleanupsPending'), legend: '{{instance}}' }],
        }),
        lines({
          title: 'Retries of clean-ups',
          description: 'Attempts by outcome.',
          unit: 'short',
          bars: true,
          stack: true,
          targets: [{ expr: increase('cleanups', ['outcome']), legend: legend('outcome') }],
        }),
        lines({
          title: 'Leaks by kind',
          description: 'Resources found without a record that owns them.',
          unit: 'short',
          bars: true,
          stack: true,
          targets: [{ expr: increase('leaks', ['kind']), legend: legend('kind') }],
        }),
        lines({
          title: 'Undos by stage',
          description: 'Undos that failed, by stage.',
          unit: 'short',
          bars: true,
          stack: true,
          targets: [{ expr: increase('undoDuration', ['stage'], { outcome: 'error' }), legend: legend('stage') }],
        }),
      ],
    },
    {
      title: 'Shims',
      panels: [
        lines({
          title: 'Shims by state',
          description: 'One shim per pod.',
          unit: 'short',
          stack: true,
          targets: [{ expr: gauge('shims', ['state']), legend: legend('state') }],
        }),
        lines({
          title: 'Calls to shims p99',
          description: 'ttrpc calls by method, without Wait, which ends when its container does.',
          unit: 's',
          logarithmic: true,
          targets: [{ expr: quantile(0.99, 'shimCall', ['method']), legend: legend('method') }],
        }),
      ],
    },
    {
      title: 'Restarts',
      panels: [
        lines({
          title: 'Pods found at the last start',
          description: 'By state: alive, dead, unknown, or undone because the last daemon left them half-way.',
          unit: 'short',
          stack: true,
          targets: [{ expr: gauge('restored', ['state']), legend: legend('state') }],
        }),
        lines({
          title: 'Time to find them',
          description: 'From the start of the daemon to its first call.',
          unit: 's',
          targets: [{ expr: gaugePerNode('restoreDuration'), legend: '{{instance}}' }],
        }),
        lines({
          title: 'Uptime',
          description: 'Time since the daemon’s start. A saw with short teeth is a restart loop.',
          unit: 's',
          targets: [{ expr: `time() - ${gaugePerNode('processStart')}`, legend: '{{instance}}' }],
        }),
        lines({
          title: 'Events',
          description:
            'Container events that slow subscribers lost, and how many subscribe. Kubelet with evented PLEG is one of them.',
          unit: 'short',
          targets: [
            { expr: increase('eventsDropped'), legend: 'dropped' },
            { expr: gauge('eventSubscribers'), legend: 'subscribers' },
          ],
        }),
      ],
    },
  ],
});
