// Lines over a logarithmic x axis, several panels side by side, as SVG.

export interface Line {
  readonly name: string
  readonly points: readonly { readonly x: number; readonly y: number }[]
}

export interface Panel {
  readonly title: string
  readonly lines: readonly Line[]
}

const WIDTH = 420
const HEIGHT = 300
const MARGIN = { left: 52, right: 16, top: 34, bottom: 40 }
const COLOURS = ['#4c78a8', '#f58518', '#54a24b', '#b279a2']
const TICKS = 4

export function plot(panels: readonly Panel[]): string {
  const drawn = panels.map((panel, at) => `<g transform="translate(${at * WIDTH} 0)">${draw(panel)}</g>`)
  const style = 'font-family="sans-serif" font-size="11" fill="#333"'
  const size = `${panels.length * WIDTH} ${HEIGHT}`
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${size}" ${style}>\n<rect width="100%" height="100%" fill="#fff"/>\n${drawn.join('\n')}\n</svg>\n`
}

function draw({ title, lines }: Panel): string {
  const all = lines.flatMap(({ points }) => points)
  const top = roundUp(Math.max(...all.map(({ y }) => y)))
  const [least, most] = [Math.min(...all.map(({ x }) => x)), Math.max(...all.map(({ x }) => x))]
  const across = WIDTH - MARGIN.left - MARGIN.right
  const down = HEIGHT - MARGIN.top - MARGIN.bottom
  const px = (x: number) => fixed(MARGIN.left + (across * Math.log(x / least)) / Math.log(most / least))
  const py = (y: number) => fixed(MARGIN.top + down * (1 - y / top))
  const marks = [...new Set(all.map(({ x }) => x))].map(
    (x) => `<text x="${px(x)}" y="${HEIGHT - MARGIN.bottom + 16}" text-anchor="middle">${x}</text>`,
  )
  const scale = Array.from({ length: TICKS + 1 }, (_, at) => (top * at) / TICKS).map(
    (y) =>
      `<line x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${py(y)}" y2="${py(y)}" stroke="#ddd"/><text x="${MARGIN.left - 6}" y="${py(y)}" dy="4" text-anchor="end">${Math.round(y)}</text>`,
  )
  const drawn = lines.map(({ name, points }, at) => {
    const colour = COLOURS[at % COLOURS.length]
    const path = points.map(({ x, y }) => `${px(x)},${py(y)}`).join(' ')
    const dots = points.map(({ x, y }) => `<circle cx="${px(x)}" cy="${py(y)}" r="3" fill="${colour}"/>`).join('')
    const label = `<text x="${MARGIN.left + 8}" y="${MARGIN.top + 12 + 14 * at}" fill="${colour}">${name}</text>`
    return `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>${dots}${label}`
  })
  const heading = `<text x="${MARGIN.left}" y="16" font-weight="bold">tokens a second by ${title}</text>`
  return [heading, ...scale, ...marks, ...drawn].join('\n')
}

/** To two digits, so that the scale has round numbers. */
function roundUp(value: number): number {
  const step = 10 ** Math.max(0, Math.floor(Math.log10(value)) - 1) * TICKS
  return Math.ceil(value / step) * step
}

const fixed = (value: number): number => Math.round(value * 10) / 10
