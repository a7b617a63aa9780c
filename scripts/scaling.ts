// Draws docs/scaling.svg from bench/results/serve-scaling.json, which `node bench/serve.ts --only scaling` writes.
import { readFileSync, writeFileSync } from 'node:fs'
import { z } from 'zod'
import { plotLines } from './plot-lines.ts'

const Line = z.object({
  title: z.string(),
  name: z.string(),
  points: z.array(z.object({ x: z.number().positive(), y: z.number().nonnegative() })).min(2),
})
const Result = z.object({ machine: z.string(), rows: z.array(z.object({ line: Line })) })

const { machine, rows } = Result.parse(JSON.parse(readFileSync('bench/results/serve-scaling.json', 'utf8')))
const lines = rows.map(({ line }) => line)
const panels = [...new Set(lines.map(({ title }) => title))].map((title) => ({
  title,
  lines: lines.filter((line) => line.title === title),
}))
writeFileSync('docs/scaling.svg', plotLines(panels, `SmolLM2-135M int4, decode; ${machine}`))
