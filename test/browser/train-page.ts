// The page that trains, driven as a person would, in a browser context of its own; and the console that serves it.
import { readFile } from 'node:fs/promises'
import type { Browser, Download, Page } from 'playwright-core'
import { createConsole } from '../../cli/console/app.ts'
import { openBases } from '../../cli/console/base-files.ts'
import type { CompilerAccess } from '../../cli/console/publish.ts'
import { type Served, serveApp } from '../../cli/gateway/serve-app.ts'
import { unzip } from './unzip.ts'

export async function startConsole(bases: readonly string[], compiler?: CompilerAccess): Promise<Served> {
  const app = await createConsole({ bases: await openBases(bases), sample: undefined, compiler })
  return serveApp((request) => app.fetch(request), { host: '127.0.0.1', port: 0 })
}

/** By the names of the fields. */
export type Fields = Readonly<Record<string, string>>

export interface TrainPage {
  readonly page: Page
  /** Errors of the page and whatever it asked of another origin. */
  readonly complaints: readonly string[]
  fill(fields: Fields, data: string): Promise<void>
  /** Resolves once the plan of what was filled in is shown. */
  plan(): Promise<string>
  train(): Promise<void>
  /** The step that is shown, 0 before the first. */
  step(): Promise<number>
  reach(step: number): Promise<number>
  /** Throws what the page says where the run failed. */
  finish(): Promise<void>
  /** A file of the only run, as the browser keeps it. */
  kept(path: string): Promise<Buffer>
  download(): Promise<Map<string, Buffer>>
  close(): Promise<void>
}

const POLL_MS = 20
const SELECTS = ['base', 'precision', 'provider', 'schedule']

export async function openTrainPage(browser: Browser, url: string, timeoutMs: number): Promise<TrainPage> {
  const context = await browser.newContext()
  const page = await context.newPage()
  page.setDefaultTimeout(timeoutMs)
  const complaints: string[] = []
  const { origin } = new URL(url)
  page.on('pageerror', (error) => complaints.push(String(error)))
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()))
  page.on('request', (request) => {
    if (!request.url().startsWith(origin) && !/^(blob|data):/.test(request.url())) complaints.push(request.url())
  })
  await page.goto(url)
  await page.waitForSelector('[name=base] option', { state: 'attached' })
  const text = async (selector: string) => (await page.locator(selector).textContent()) ?? ''
  const step = async () => Number(/step(\d+) of/.exec(await text('#run-figures'))?.[1] ?? 0)
  return {
    page,
    complaints,
    async fill(fields, data) {
      await page.locator('summary', { hasText: 'More' }).click()
      for (const [name, value] of Object.entries(fields)) {
        const field = page.locator(`[name=${name}]`)
        await (SELECTS.includes(name) ? field.selectOption(value) : field.fill(value))
      }
      await page.setInputFiles('#file', data)
    },
    async plan() {
      await page.waitForSelector('#train:enabled, #plan-problems li')
      return `${await text('#plan-rows')}\n${await text('#plan-notes')}\n${await text('#plan-problems')}`
    },
    async train() {
      await page.click('#train:enabled')
    },
    step,
    async reach(wanted) {
      for (;;) {
        const now = await step()
        if (now >= wanted) return now
        const problems = await text('#run-problems')
        if (problems !== '') throw new Error(problems)
        // Whoever asks without a pause takes the core that trains.
        await page.waitForTimeout(POLL_MS)
      }
    },
    async finish() {
      await page.waitForSelector('#run[data-state=finished], #run-problems li')
      const problems = await text('#run-problems')
      if (problems !== '') throw new Error(problems)
    },
    async kept(path) {
      const parts = JSON.stringify(path.split('/'))
      const base64 = await page.evaluate<string>(`(async () => {
        const runs = await (await navigator.storage.getDirectory()).getDirectoryHandle('sidepath-runs')
        let folder
        for await (const run of runs.values()) folder = run
        const parts = ${parts}
        for (const part of parts.slice(0, -1)) folder = await folder.getDirectoryHandle(part)
        const file = await (await folder.getFileHandle(parts.at(-1))).getFile()
        return new Uint8Array(await file.arrayBuffer()).toBase64()
      })()`)
      return Buffer.from(base64, 'base64')
    },
    async download() {
      const [download] = await Promise.all([page.waitForEvent('download'), page.click('#download')])
      return unzip(await contentOf(download))
    },
    close: () => context.close(),
  }
}

async function contentOf(download: Download): Promise<Buffer> {
  return readFile(await download.path())
}
