// Plots as inline SVG: no script, no font, nothing fetched. Colours are classes, which the page's style gives their values.

/** For text and attributes. */
export function escapeHtml(text: string): string {
  const entities: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  }
  return text.replace(/[&<>"']/g, (char) => entities[char] ?? char)
}

export interface Line {
  readonly label: string
  /** x, y */
  readonly points: readonly (readonly [number, number])[]
  /** A class of the page's style. */
  readonly style: string
}

export interface LinePlot {
  readonly title: string
  /** The figures in words, for who cannot see the plot. */
  readonly description: string
  readonly x: string
  readonly y: string
  readonly lines: readonly Line[]
  /** Horizontal lines with a name. */
  readonly levels?: readonly { readonly label: string; readonly y: number }[]
  readonly yScale: 'log' | 'linear'
  readonly xScale: 'log' | 'linear'
}

const WIDTH = 560
const HEIGHT = 300
const MARGIN = { top: 14, right: 16, bottom: 44, left: 60 }
const MAX_TICKS = 8

export function linePlot(plot: LinePlot): string {
  const points = plot.lines.flatMap(({ points }) => points)
  const xs = points.map(([x]) => x)
  const ys = [...points.map(([, y]) => y), ...(plot.levels ?? []).map(({ y }) => y)]
  const x = scale(plot.xScale, extent(xs, plot.xScale), [MARGIN.left, WIDTH - MARGIN.right])
  const y = scale(plot.yScale, padded(extent(ys, plot.yScale), plot.yScale), [HEIGHT - MARGIN.bottom, MARGIN.top])
  const xTicks = integers(xs)
  const grid = [
    ...y.ticks.map(
      (tick) =>
        `<line class="grid" x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${at(y.of(tick))}" y2="${at(y.of(tick))}"/>` +
        text(MARGIN.left - 8, y.of(tick) + 4, label(tick), 'end'),
    ),
    ...xTicks.map((tick) => text(x.of(tick), HEIGHT - MARGIN.bottom + 18, label(tick), 'middle')),
  ]
  const levels = (plot.levels ?? []).map(
    ({ label, y: value }) =>
      `<line class="level" x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${at(y.of(value))}" y2="${at(y.of(value))}"/>` +
      text(WIDTH - MARGIN.right, y.of(value) - 5, label, 'end'),
  )
  const lines = plot.lines.map(({ points, style, label: name }) => {
    const path = points.map(([px, py], i) => `${i === 0 ? 'M' : 'L'}${at(x.of(px))} ${at(y.of(py))}`).join('')
    // A line of one point would not be seen.
    const dots = points.map(
      ([px, py]) => `<circle class="${style}" cx="${at(x.of(px))}" cy="${at(y.of(py))}" r="2.5"/>`,
    )
    return `<g><title>${escapeHtml(name)}</title><path class="${style}" d="${path}"/>${dots.join('')}</g>`
  })
  const names =
    text((MARGIN.left + WIDTH - MARGIN.right) / 2, HEIGHT - 8, plot.x, 'middle') +
    `<text class="name" transform="translate(14 ${(HEIGHT - MARGIN.bottom + MARGIN.top) / 2}) rotate(-90)" text-anchor="middle">${escapeHtml(plot.y)}</text>`
  return frame(WIDTH, HEIGHT, plot.title, plot.description, [...grid, ...levels, ...lines, names])
}

export interface Bar {
  readonly label: string
  /** The whole, as an outline. */
  readonly of: number
  readonly value: number
  readonly style: string
  /** Beside the bar. */
  readonly note: string
}

const BAR_HEIGHT = 20
const BAR_LABEL = 250
const BAR_NOTE = 150
const BAR_WIDTH = 720
/** About as many characters of the label fit. */
const LABEL_CHARS = 38

/** A bar in an outline each. */
export function barPlot(title: string, description: string, bars: readonly Bar[]): string {
  const largest = Math.max(1, ...bars.map(({ of, value }) => Math.max(of, value)))
  const room = BAR_WIDTH - BAR_LABEL - BAR_NOTE
  const rows = bars.map(({ label, of, value, style, note }, i) => {
    const y = i * BAR_HEIGHT + 4
    const rect = (kind: string, width: number) =>
      `<rect class="${kind}" x="${BAR_LABEL}" y="${y}" width="${at((width / largest) * room)}" height="${BAR_HEIGHT - 7}" rx="2"/>`
    const shown = label.length > LABEL_CHARS ? `…${label.slice(1 - LABEL_CHARS)}` : label
    const end = BAR_LABEL + (Math.max(of, value) / largest) * room
    return `<g><title>${escapeHtml(`${label}: ${note}`)}</title>${text(BAR_LABEL - 8, y + 10, shown, 'end')}${rect(style, value)}${rect('outline', of)}${text(end + 8, y + 10, note, 'start')}</g>`
  })
  return frame(BAR_WIDTH, bars.length * BAR_HEIGHT + 8, title, description, rows)
}

function frame(width: number, height: number, title: string, description: string, parts: readonly string[]): string {
  return (
    `<svg viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escapeHtml(`${title}. ${description}`)}">` +
    `<title>${escapeHtml(title)}</title>${parts.join('')}</svg>`
  )
}

interface Scale {
  of(value: number): number
  readonly ticks: readonly number[]
}

type Range = readonly [number, number]

function scale(kind: 'log' | 'linear', [low, high]: Range, [from, to]: Range): Scale {
  const turn = kind === 'log' ? Math.log10 : (value: number) => value
  const [a, b] = [turn(low), turn(high)]
  const of = (value: number) => from + ((turn(Math.min(high, Math.max(low, value))) - a) / (b - a || 1)) * (to - from)
  return { of, ticks: kind === 'log' ? decades(a, b) : steps(low, high) }
}

function extent(values: readonly number[], kind: 'log' | 'linear'): Range {
  const usable = values.filter((value) => Number.isFinite(value) && (kind === 'linear' || value > 0))
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]
  for (const value of usable) [low, high] = [Math.min(low, value), Math.max(high, value)]
  return low <= high ? [low, high] : [1, 1]
}

function padded([low, high]: Range, kind: 'log' | 'linear'): Range {
  if (kind === 'log') {
    const top = Math.ceil(Math.log10(high) - 1e-9)
    return [10 ** Math.min(Math.floor(Math.log10(low)), top - 1), 10 ** top]
  }
  const pad = (high - low || Math.abs(high) || 1) * 0.08
  return [low - pad, high + pad]
}

function decades(a: number, b: number): number[] {
  const every = Math.max(1, Math.ceil((b - a) / MAX_TICKS))
  const ticks: number[] = []
  for (let power = Math.ceil(a); power <= b; power += every) ticks.push(10 ** power)
  return ticks
}

function steps(low: number, high: number): number[] {
  const rough = (high - low) / 5
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power
  const ticks: number[] = []
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) ticks.push(Number(tick.toPrecision(12)))
  return ticks
}

/** Whole numbers that are there, thinned out evenly. */
function integers(values: readonly number[]): number[] {
  const all = [...new Set(values)].sort((a, b) => a - b)
  const every = Math.ceil(all.length / MAX_TICKS)
  return all.filter((_, i) => i % every === 0)
}

function text(x: number, y: number, content: string, anchor: 'start' | 'middle' | 'end'): string {
  return `<text x="${at(x)}" y="${at(y)}" text-anchor="${anchor}">${escapeHtml(content)}</text>`
}

function label(value: number): string {
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) return value.toExponential(0)
  return String(Number(value.toPrecision(4)))
}

const at = (value: number) => String(Math.round(value * 10) / 10)
