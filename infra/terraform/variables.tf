variable "region" {
  description = "Region of the bucket and of the cluster: data does not leave it."
  type        = string
  default     = "eu-central-1"
}

variable "bucket" {
  description = "Name of the bucket to make. Below it: raw/ (study packages and photographs), derived/ (corpora, runs, tables) and private/ (hashes of API keys)."
  type        = string
}

variable "cluster_name" {
  description = "The cluster_name of cluster.yaml. The head may end only instances that carry it."
  type        = string
  default     = "foodray"
}

variable "ssh_cidr" {
  description = "Addresses that may reach the head by ssh, such as an office's VPN. Null, the default, opens nothing: ssh goes through the Session Manager."
  type        = string
  default     = null
  validation {
    condition     = var.ssh_cidr == null || (can(cidrhost(var.ssh_cidr, 0)) && try(tonumber(split("/", var.ssh_cidr)[1]) >= 16, false))
    error_message = "ssh_cidr must be a CIDR of /16 or narrower, such as 203.0.113.7/32; the whole internet is not let in."
  }
}

variable "oidc_provider_arn" {
  description = "OIDC provider of an EKS cluster, for the service accounts of infra/kuberay. Null makes no roles for Kubernetes."
  type        = string
  default     = null
}

variable "namespace" {
  description = "Namespace of infra/kuberay."
  type        = string
  default     = "foodray"
}

variable "images" {
  description = "Public SSM parameters that name the machine images: Ubuntu 24.04 plain, and with NVIDIA's driver. Both bring Python 3.12 and the Session Manager's agent."
  type        = object({ cpu = string, gpu = string })
  default = {
    cpu = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
    gpu = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
  }
}

variable "keep_old_versions_days" {
  description = "How long overwritten and deleted objects can be brought back."
  type        = number
  default     = 90
}
