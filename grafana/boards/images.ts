import { board, heatmap, lines, number } from '../board.ts';
import { buckets, gauge, increase, legend, quantile, rate } from '../query.ts';

const failed = `${rate('imagePull', [], { outcome: 'error' })} / ${rate('imagePull')}`;

export const images = board({
  name: 'images',
  title: 'Sluice / Images',
  description: 'Pulls: their duration, their bytes, and how many joined another.',
  rows: [
    {
      title: 'Now',
      panels: [
        number({
          title: 'Pulls running',
          description: 'Pulls in flight.',
          unit: 'short',
          targets: [{ expr: gauge('imagePulling'), legend: 'pulls' }],
        }),
        number({
          title: 'Pull p50',
          description: 'Successful pulls.',
          unit: 's',
          targets: [{ expr: quantile(0.5, 'imagePull', [], { outcome: 'ok' }), legend: 'p50' }],
        }),
        number({
          title: 'Pull p99',
          description: 'Successful pulls.',
          unit: 's',
          thresholds: [30, 120],
          targets: [{ expr: quantile(0.99, 'imagePull', [], { outcome: 'ok' }), legend: 'p99' }],
        }),
        number({
          title: 'Failed',
          description: 'Share of the pulls that failed.',
          unit: 'percentunit',
          thresholds: [0.01, 0.1],
          targets: [{ expr: failed, legend: 'failed' }],
        }),
        number({
          title: 'Download',
          description: 'Bytes per second from registries, as they came over the wire.',
          unit: 'Bps',
          targets: [{ expr: rate('imageBytes', [], { kind: 'downloaded' }), legend: 'downloaded' }],
        }),
        number({
          title: 'Images',
          description: 'Images on the nodes.',
          unit: 'short',
          targets: [{ expr: gauge('images'), legend: 'images' }],
        }),
      ],
    },
    {
      title: 'Pulls',
      panels: [
        lines({
          title: 'Pulls by outcome',
          description: 'Pulls that ended per second. Several callers of one image in flight are one pull.',
          unit: 'ops',
          stack: true,
          targets: [{ expr: rate('imagePull', ['outcome']), legend: legend('outcome') }],
        }),
        lines({
          title: 'Pull time',
          description: 'Whole pulls that succeeded.',
          unit: 's',
          logarithmic: true,
          targets: [
            { expr: quantile(0.99, 'imagePull', [], { outcome: 'ok' }), legend: 'p99' },
            { expr: quantile(0.5, 'imagePull', [], { outcome: 'ok' }), legend: 'p50' },
          ],
        }),
        heatmap({
          title: 'Where pull times lie',
          description: 'All pulls, failures included.',
          unit: 's',
          expr: buckets('imagePull'),
        }),
        lines({
          title: 'Phase p99',
          description:
            'resolve: manifest and config from the registry. layer: one layer downloaded, verified and unpacked in one pass; of it download (waiting for the registry) and unpack (the rest). sync: syncfs of the layers. commit: records.',
          unit: 's',
          logarithmic: true,
          targets: [{ expr: quantile(0.99, 'imagePhase', ['phase']), legend: legend('phase') }],
        }),
        lines({
          title: 'Bytes',
          description: 'Downloaded (compressed) and unpacked bytes per second.',
          unit: 'Bps',
          targets: [{ expr: rate('imageBytes', ['kind']), legend: legend('kind') }],
        }),
        lines({
          title: 'Layers',
          description: 'Layers that pulls needed: pulled, already present, or joined to the same layer in flight.',
          unit: 'ops',
          stack: true,
          targets: [{ expr: rate('imageLayers', ['result']), legend: legend('result') }],
        }),
        lines({
          title: 'Joined, retried, cancelled',
          description:
            'Pulls that joined one in flight, requests to registries that were tried again, and pulls that were dropped because their last caller had left.',
          unit: 'short',
          bars: true,
          targets: [
            { expr: increase('imageJoined'), legend: 'joined' },
            { expr: increase('imageRetries'), legend: 'retries' },
            { expr: increase('imageCancelled'), legend: 'cancelled' },
          ],
        }),
        lines({
          title: 'Failures by cause',
          description: 'Pulls that failed, by the code of the error; what each means is in docs/operate/errors.',
          unit: 'short',
          bars: true,
          targets: [{ expr: increase('imageFailures', ['cause']), legend: legend('cause') }],
        }),
        lines({
          title: 'Waiting for images in launches',
          description: 'The image stage of pod launches: long when the sandbox image has to be pulled.',
          unit: 's',
          logarithmic: true,
          targets: [
            { expr: quantile(0.99, 'stageDuration', ['job'], { stage: 'image' }), legend: `p99 ${legend('job')}` },
            { expr: quantile(0.5, 'stageDuration', ['job'], { stage: 'image' }), legend: `p50 ${legend('job')}` },
          ],
        }),
      ],
    },
  ],
});
