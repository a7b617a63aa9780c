// `sidepath compiler`: the compiler behind HTTP, for those who have the token.
import { JobsError } from '../jobs/errors.ts'
import { TOKEN_VARIABLE } from '../jobs/http/guard.ts'
import { serve } from '../jobs/serve.ts'
import { UserError } from './fail.ts'
import { openDataFolder } from './up/data-folder.ts'
import { shutdownOnSignal } from './up/shutdown.ts'

export interface CompilerOptions {
  readonly port: number
  readonly host: string
  readonly dataDir: string
  readonly maxUploadGib: number
  readonly uploadQuotaGib: number
  readonly artifactQuotaGib: number
}

const GIB = 1024 ** 3

/** Resolves when it serves; the process then lives until SIGINT or SIGTERM. */
export async function compilerCommand(options: CompilerOptions): Promise<void> {
  const token = process.env[TOKEN_VARIABLE]
  // Whatever this process may start has no use for it.
  delete process.env[TOKEN_VARIABLE]
  const folder = await openDataFolder(options.dataDir)
  const shutdown = shutdownOnSignal()
  await shutdown.opened(folder.unlock)
  try {
    const service = await serve({
      dataDir: folder.path,
      token,
      host: options.host,
      port: options.port,
      limits: {
        maxBlobBytes: options.maxUploadGib * GIB,
        blobQuotaBytes: options.uploadQuotaGib * GIB,
        artifactQuotaBytes: options.artifactQuotaGib * GIB,
      },
    })
    await shutdown.opened(service.close)
    process.stdout.write(`compiler on ${service.url}, data in ${folder.path}\n`)
  } catch (error) {
    // After a signal, whatever was under way fails because things close under it; that is no fault.
    if (!(await shutdown.now())) return
    throw error instanceof JobsError ? new UserError(error.message) : error
  }
}
