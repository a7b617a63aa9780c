// `sidepath up`: the whole system on this machine, with the demo in it. Started again, it goes on where it was.
import { createWriteStream } from 'node:fs'
import { serve } from '../../gpu-backend/serve.ts'
import { openDataFolder } from './data-folder.ts'
import { demoArtifact } from './demo-artifact.ts'
import { requireFreePort, startGateway } from './gateway-host.ts'
import { readOrMakeSecrets } from './secrets.ts'
import { seedDemo } from './seed.ts'
import { welcome } from './welcome.ts'

export interface UpOptions {
  readonly port: number
  readonly backendPort: number
  readonly dataDir: string
}

/** Resolves when everything is ready; the process then lives until SIGINT or SIGTERM. */
export async function up(options: UpOptions): Promise<void> {
  await requireFreePort(options.port, '--port')
  await requireFreePort(options.backendPort, '--backend-port')
  const folder = await openDataFolder(options.dataDir)
  const closing: (() => Promise<void>)[] = [folder.unlock]
  closeOnSignal(closing)
  try {
    const secrets = await readOrMakeSecrets(folder)
    const logFile = folder.join('up.log')
    const log = openLog(logFile)
    const artifact = await demoArtifact(folder)
    say(`${artifact.compiled ? 'compiled' : 'found'} the demo artifact ${artifact.id.slice(0, 12)}`)
    const backend = await serve({
      artifact: artifact.path,
      secret: secrets.capabilitySecret,
      port: options.backendPort,
      log: (event) => log(JSON.stringify({ tier: 'gpu-backend', time: new Date().toISOString(), ...event })),
    })
    closing.unshift(backend.close)
    const gateway = await startGateway({ port: options.port, secrets, persistTo: folder.join('d1'), log })
    closing.unshift(gateway.close)
    const demo = await seedDemo({ folder, gateway, secrets, backendUrl: backend.url, manifest: artifact.manifest })
    say(`backend on ${backend.url} (onnxruntime-node, CPU); logs in ${logFile}`)
    process.stdout.write(welcome(demo, folder.join('demo.json')))
  } catch (error) {
    await closeAll(closing)
    throw error
  }
}

/** The first signal closes everything in order; a second one ends the process at once. */
function closeOnSignal(closing: (() => Promise<void>)[]): void {
  let asked = false
  const stop = () => {
    if (asked) process.exit(130)
    asked = true
    say('stopping …')
    void closeAll(closing).then(
      () => process.exit(0),
      () => process.exit(2),
    )
  }
  process.on('SIGINT', stop)
  process.on('SIGTERM', stop)
}

async function closeAll(closing: (() => Promise<void>)[]): Promise<void> {
  for (const close of closing.splice(0)) await close()
}

/** Logs of both tiers, one JSON line each: the terminal is for what a person reads. */
function openLog(path: string): (line: string) => void {
  const stream = createWriteStream(path, { flags: 'a', mode: 0o600 })
  return (line) => stream.write(`${line}\n`)
}

function say(line: string): void {
  process.stdout.write(`${line}\n`)
}

