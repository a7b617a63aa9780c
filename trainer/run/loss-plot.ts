// loss.svg: the training loss of every step, its running mean, and the held-out loss.

export interface Point {
  readonly step: number
  readonly loss: number
}

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [720, 360, 56, 16, 24, 40]
/** A screen has no more columns than this; a longer run is thinned. */
const MAX_POINTS = 1000
const SMOOTHING = 0.95
const INK = { train: '#9db4d3', mean: '#1f4e8c', held: '#c2571a', axis: '#444' }

export function lossPlot(train: readonly Point[], held: readonly Point[]): string {
  const all = [...train, ...held].filter(({ loss }) => Number.isFinite(loss))
  const lastStep = Math.max(1, ...all.map(({ step }) => step))
  const top = Math.max(1e-6, ...all.map(({ loss }) => loss))
  const x = (step: number) => (LEFT + (step / lastStep) * (WIDTH - LEFT - RIGHT)).toFixed(1)
  const y = (loss: number) => (HEIGHT - BOTTOM - (loss / top) * (HEIGHT - TOP - BOTTOM)).toFixed(1)
  const line = (points: readonly Point[], color: string, width: number) =>
    `<polyline fill="none" stroke="${color}" stroke-width="${width}" points="${thin(points)
      .filter(({ loss }) => Number.isFinite(loss))
      .map(({ step, loss }) => `${x(step)},${y(loss)}`)
      .join(' ')}"/>`
  const text = (at: string, down: string, words: string, more = '') =>
    `<text x="${at}" y="${down}" font-family="sans-serif" font-size="12" fill="${INK.axis}"${more}>${words}</text>`
  const ticks = [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
    `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(share * top)}" y2="${y(share * top)}" stroke="#ddd"/>`,
    text(String(LEFT - 6), y(share * top), (share * top).toPrecision(3), ' text-anchor="end"'),
    text(
      x(share * lastStep),
      String(HEIGHT - BOTTOM + 18),
      String(Math.round(share * lastStep)),
      ' text-anchor="middle"',
    ),
  ])
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}">`,
    `<title>Loss by step: training ${last(train)}, held out ${last(held)}</title>`,
    '<rect width="100%" height="100%" fill="#fff"/>',
    ...ticks,
    line(train, INK.train, 1),
    line(runningMean(train), INK.mean, 1.5),
    line(held, INK.held, 2),
    text(String(WIDTH - RIGHT), '16', `training ${last(train)}`, ` text-anchor="end" style="fill:${INK.mean}"`),
    text(String(WIDTH - RIGHT - 160), '16', `held out ${last(held)}`, ` text-anchor="end" style="fill:${INK.held}"`),
    text(String(LEFT), '16', 'loss, nats per target'),
    '</svg>',
    '',
  ].join('\n')
}

const last = (points: readonly Point[]) => points.at(-1)?.loss.toFixed(4) ?? '–'

function thin(points: readonly Point[]): readonly Point[] {
  const every = Math.ceil(points.length / MAX_POINTS)
  return points.filter((_, at) => at % every === 0 || at === points.length - 1)
}

/** Exponential, without the pull towards 0 of its beginning. */
function runningMean(points: readonly Point[]): Point[] {
  let sum = 0
  let weight = 0
  return points.map(({ step, loss }) => {
    sum = SMOOTHING * sum + (1 - SMOOTHING) * loss
    weight = SMOOTHING * weight + (1 - SMOOTHING)
    return { step, loss: sum / weight }
  })
}
