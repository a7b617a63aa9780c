// Lines over a logarithmic x axis, several panels side by side, as SVG.

interface Line {
  readonly name: string
  readonly points: readonly { readonly x: number; readonly y: number }[]
}

interface Panel {
  /** Of the x axis. */
  readonly title: string
  readonly lines: readonly Line[]
}

const WIDTH = 430
const HEIGHT = 300
const FOOT = 22
const MARGIN = { left: 50, right: 20, top: 34, bottom: 46 }
const COLOURS = ['#4c78a8', '#f58518', '#54a24b', '#b279a2']
const TICKS = 4

/** `foot`: a line below all panels. */
export function plotLines(panels: readonly Panel[], foot: string): string {
  const drawn = panels.map((panel, at) => `<g transform="translate(${at * WIDTH} 0)">\n${draw(panel)}\n</g>`)
  const style = 'font-family="sans-serif" font-size="11" fill="#333"'
  const size = `${panels.length * WIDTH} ${HEIGHT + FOOT}`
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${size}" ${style}>`,
    `<title>${escaped(panels.map(({ title }) => title).join('; '))}</title>`,
    '<rect width="100%" height="100%" fill="#fff"/>',
    ...drawn,
    `<text x="${MARGIN.left}" y="${HEIGHT + 8}" fill="#777" font-size="10">${escaped(foot)}</text>`,
    '</svg>',
    '',
  ].join('\n')
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
      `<line x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${py(y)}" y2="${py(y)}" stroke="#ddd"/>` +
      `<text x="${MARGIN.left - 6}" y="${py(y)}" dy="4" text-anchor="end">${Math.round(y)}</text>`,
  )
  // Below the lines, which rise to the right.
  const legend = HEIGHT - MARGIN.bottom - 10 - 15 * (lines.length - 1)
  const drawn = lines.map(({ name, points }, at) => {
    const colour = COLOURS[at % COLOURS.length]
    const path = points.map(({ x, y }) => `${px(x)},${py(y)}`).join(' ')
    const dots = points.map(({ x, y }) => `<circle cx="${px(x)}" cy="${py(y)}" r="3" fill="${colour}"/>`).join('')
    const [x, y] = [WIDTH - MARGIN.right - 8, legend + 15 * at]
    const label = `<text x="${x}" y="${y}" fill="${colour}" text-anchor="end">${escaped(name)}</text>`
    return `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>${dots}${label}`
  })
  const heading = `<text x="${MARGIN.left}" y="18" font-weight="bold">tokens a second</text>`
  const middle = MARGIN.left + across / 2
  const axis = `<text x="${middle}" y="${HEIGHT - MARGIN.bottom + 34}" text-anchor="middle">${escaped(title)}</text>`
  return [heading, ...scale, ...marks, ...drawn, axis].join('\n')
}

/** To two digits, so that the scale has round numbers. */
function roundUp(value: number): number {
  const step = 10 ** Math.max(0, Math.floor(Math.log10(value)) - 1) * TICKS
  return Math.ceil(value / step) * step
}

const fixed = (value: number): number => Math.round(value * 10) / 10

const escaped = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
