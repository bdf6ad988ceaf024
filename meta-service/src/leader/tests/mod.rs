mod barriers;
mod leases;
mod simulation;
