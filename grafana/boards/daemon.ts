import { board, heatmap, lines, number } from '../board.ts';
import { buckets, gaugePerNode, increase, legend, quantile, rate, ratePerNode } from '../query.ts';

export const daemon = board({
  name: 'daemon',
  title: 'Sluice / The daemon',
  description: 'The process itself: event loop, memory, threads, calls, store.',
  rows: [
    {
      title: 'Now',
      panels: [
        number({
          title: 'Event loop delay p99',
          description: 'How late timers of the main thread fire. Above 20 ms, list and status calls become slow.',
          unit: 's',
          thresholds: [0.02, 0.1],
          width: 6,
          targets: [{ expr: quantile(0.99, 'loopDelay'), legend: 'p99' }],
        }),
        number({
          title: 'Event loop busy',
          description: 'Share of the time that the busiest main thread is not idle.',
          unit: 'percentunit',
          thresholds: [0.7, 0.9],
          width: 6,
          targets: [{ expr: `max(${ratePerNode('loopBusy')})`, legend: 'busy' }],
        }),
        number({
          title: 'Memory',
          description: 'Resident memory of the largest daemon.',
          unit: 'bytes',
          thresholds: [400e6, 1e9],
          width: 6,
          targets: [{ expr: `max(${gaugePerNode('processMemory')})`, legend: 'resident' }],
        }),
        number({
          title: 'Descriptors',
          description: 'Share of the file descriptors in use, of the daemon nearest to its limit.',
          unit: 'percentunit',
          thresholds: [0.5, 0.8],
          width: 6,
          targets: [{ expr: `max(${gaugePerNode('processFds')} / ${gaugePerNode('processMaxFds')})`, legend: 'used' }],
        }),
      ],
    },
    {
      title: 'Main thread',
      panels: [
        heatmap({
          title: 'Event loop delay',
          description: 'How late a timer of the main thread fires, measured ten times a second.',
          unit: 's',
          expr: buckets('loopDelay'),
        }),
        lines({
          title: 'Event loop delay, last 20 s',
          description: 'By node: what every call waits for when it comes at the wrong moment.',
          unit: 's',
          targets: [
            { expr: gaugePerNode('loopDelayStat', ['stat'], { stat: '=~"p99|max"' }), legend: '{{instance}} {{stat}}' },
          ],
        }),
        lines({
          title: 'Event loop busy',
          description: 'Share of the time that the main thread works.',
          unit: 'percentunit',
          targets: [{ expr: ratePerNode('loopBusy'), legend: '{{instance}}' }],
        }),
        lines({
          title: 'Garbage collection p99',
          description: 'Pauses of the main thread, by kind.',
          unit: 's',
          targets: [{ expr: quantile(0.99, 'gc', ['kind']), legend: legend('kind') }],
        }),
      ],
    },
    {
      title: 'Process',
      panels: [
        lines({
          title: 'CPU',
          description: 'Cores used, all threads, without the shims, plugins and runtimes that it starts.',
          unit: 'short',
          targets: [{ expr: ratePerNode('processCpu'), legend: '{{instance}}' }],
        }),
        lines({
          title: 'Memory',
          description: 'Resident memory, and the JavaScript heap of the main thread.',
          unit: 'bytes',
          targets: [
            { expr: gaugePerNode('processMemory'), legend: '{{instance}} resident' },
            { expr: gaugePerNode('heap', ['kind']), legend: '{{instance}} heap {{kind}}' },
          ],
        }),
        lines({
          title: 'Open descriptors',
          description: 'Grows with pods (a connection to each shim, logs) and must fall with them.',
          unit: 'short',
          targets: [{ expr: gaugePerNode('processFds'), legend: '{{instance}}' }],
        }),
        lines({
          title: 'Starting processes p99',
          description:
            'posix_spawn itself, which blocks its thread. Grows when the kernel is short of memory or under lock contention.',
          unit: 's',
          targets: [{ expr: quantile(0.99, 'spawn', ['kind']), legend: legend('kind') }],
        }),
      ],
    },
    {
      title: 'CRI',
      panels: [
        lines({
          title: 'Calls by method',
          description: 'CRI calls per second, reads included.',
          unit: 'ops',
          targets: [{ expr: `${rate('grpcDuration', ['method'])} > 0`, legend: legend('method') }],
        }),
        lines({
          title: 'Call time p99 by method',
          description: 'From the arrival of a call to its answer. Lists and status calls must stay in milliseconds.',
          unit: 's',
          logarithmic: true,
          targets: [{ expr: `${quantile(0.99, 'grpcDuration', ['method'])} >= 0`, legend: legend('method') }],
        }),
        lines({
          title: 'Errors by method and code',
          description: 'Calls that ended with another code than OK. Kubelet causes many NotFound in normal operation.',
          unit: 'short',
          bars: true,
          stack: true,
          targets: [
            {
              expr: `${increase('grpcHandled', ['method', 'code'], { code: '!="OK"' })} > 0 or vector(0)`,
              legend: `${legend('method')} ${legend('code')}`,
            },
          ],
        }),
        lines({
          title: 'Store writes p99',
          description:
            'Writes to SQLite on the main thread. Tens of microseconds; more means a slow disk without write cache.',
          unit: 's',
          targets: [{ expr: quantile(0.99, 'storeWrite'), legend: 'p99' }],
        }),
        lines({
          title: 'Store writes pending',
          description:
            'Changes that cannot be written and are in memory alone: the disk is full, read-only or broken. See SluiceStoreNotWritten in docs/operate/alerts.md.',
          unit: 'short',
          targets: [{ expr: gaugePerNode('storePending'), legend: '{{instance}}' }],
        }),
      ],
    },
    {
      title: 'Threads, logs, traces',
      panels: [
        lines({
          title: 'Worker threads replaced',
          description: 'Threads that died and were replaced. Never without a reason: look in the log.',
          unit: 'short',
          bars: true,
          stack: true,
          targets: [{ expr: increase('poolRestarts', ['pool']), legend: legend('pool') }],
        }),
        lines({
          title: 'Container logs',
          description: 'What containers write to their logs.',
          unit: 'Bps',
          stack: true,
          targets: [{ expr: rate('logBytes'), legend: 'bytes' }],
        }),
        lines({
          title: 'Container log lines',
          description: 'Lines per second, the parts of a split line each.',
          unit: 'ops',
          stack: true,
          targets: [{ expr: rate('logEntries'), legend: 'lines' }],
        }),
        lines({
          title: 'Spans',
          description: 'Spans delivered to the trace collector, and dropped because it did not accept them.',
          unit: 'ops',
          targets: [{ expr: rate('spans', ['outcome']), legend: legend('outcome') }],
        }),
        lines({
          title: 'Versions',
          description: 'Daemons by version of Sluice and Node.',
          unit: 'short',
          targets: [
            {
              expr: 'count by (version, node) (sluice_build_info{job=~"$job",instance=~"$instance"})',
              legend: 'sluice {{version}} node {{node}}',
            },
          ],
        }),
      ],
    },
  ],
});
