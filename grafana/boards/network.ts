import { board, heatmap, lines, number } from '../board.ts';
import { buckets, busy, gaugePerNode, increase, legend, quantile, rate } from '../query.ts';

const ADD = { command: 'ADD' } as const;
const failed = `${rate('cniDuration', [], { outcome: '!="ok"' })} / ${rate('cniDuration')}`;

export const network = board({
  name: 'network',
  title: 'Sluice / Network',
  description: 'Network namespaces and CNI plugins, one by one.',
  rows: [
    {
      title: 'Now',
      panels: [
        number({
          title: 'Network ready',
          description:
            'Nodes without a usable CNI configuration: pods on the host network still start there, no others do.',
          unit: 'short',
          thresholds: [1, 1],
          width: 6,
          targets: [{ expr: `count(${gaugePerNode('networkReady')} == 0) or vector(0)`, legend: 'not ready' }],
        }),
        number({
          title: 'Plugin calls',
          description: 'CNI plugin calls per second, all commands.',
          unit: 'ops',
          width: 6,
          targets: [{ expr: rate('cniDuration'), legend: 'calls' }],
        }),
        number({
          title: 'Failed',
          description: 'Share of the plugin calls that failed or ran out of time.',
          unit: 'percentunit',
          thresholds: [0.01, 0.05],
          width: 6,
          targets: [{ expr: failed, legend: 'failed' }],
        }),
        number({
          title: 'ADD p99',
          description: 'Slowest hundredth of single plugin calls for ADD.',
          unit: 's',
          thresholds: [1, 5],
          width: 6,
          targets: [{ expr: quantile(0.99, 'cniDuration', [], ADD), legend: 'p99' }],
        }),
      ],
    },
    {
      title: 'Plugins',
      panels: [
        lines({
          title: 'ADD p99 by plugin',
          description: 'One call of one plugin, process start included. The plugin at the top is the one to look at.',
          unit: 's',
          logarithmic: true,
          targets: [{ expr: quantile(0.99, 'cniDuration', ['plugin'], ADD), legend: legend('plugin') }],
        }),
        lines({
          title: 'ADD p50 by plugin',
          description: 'The median call.',
          unit: 's',
          logarithmic: true,
          targets: [{ expr: quantile(0.5, 'cniDuration', ['plugin'], ADD), legend: legend('plugin') }],
        }),
        lines({
          title: 'DEL p99 by plugin',
          description: 'Teardown. A DEL that hangs keeps the address until it ends or is retried.',
          unit: 's',
          logarithmic: true,
          targets: [{ expr: quantile(0.99, 'cniDuration', ['plugin'], { command: 'DEL' }), legend: legend('plugin') }],
        }),
        heatmap({
          title: 'ADD, all plugins',
          description: 'Where the times of single plugin calls lie.',
          unit: 's',
          expr: buckets('cniDuration', ADD),
        }),
        lines({
          title: 'Calls by plugin and command',
          description: 'Plugin calls per second.',
          unit: 'ops',
          targets: [
            { expr: rate('cniDuration', ['plugin', 'command']), legend: `${legend('plugin')} ${legend('command')}` },
          ],
        }),
        lines({
          title: 'Failures by plugin',
          description: 'Calls that failed or ran out of time. The log has the plugin’s own message.',
          unit: 'short',
          bars: true,
          stack: true,
          targets: [
            {
              expr: increase('cniDuration', ['plugin', 'command', 'outcome'], { outcome: '!="ok"' }),
              legend: `${legend('plugin')} ${legend('command')} ${legend('outcome')}`,
            },
          ],
        }),
      ],
    },
    {
      title: 'Stages',
      panels: [
        lines({
          title: 'Namespace and network stages p99',
          description: 'The whole stage (all plugins one after the other), in launches and teardowns.',
          unit: 's',
          logarithmic: true,
          targets: [
            {
              expr: quantile(0.99, 'stageDuration', ['job', 'stage'], { stage: '=~"netns|network"' }),
              legend: `${legend('job')} ${legend('stage')}`,
            },
          ],
        }),
        lines({
          title: 'Plugins at work',
          description: 'Seconds of plugin calls per second: how many run at once on average.',
          unit: 'short',
          stack: true,
          targets: [{ expr: busy('cniDuration', ['plugin']), legend: legend('plugin') }],
        }),
      ],
    },
  ],
});
