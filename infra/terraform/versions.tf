# What foodray needs of AWS: one bucket, one network, the roles of cluster.yaml and, with an OIDC provider, of infra/kuberay.
# `terraform apply` prints nothing secret; `terraform output -raw cluster_yaml` is cluster.yaml with this account's ids in it.
terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { project = "foodray", cluster = var.cluster_name }
  }
}

data "aws_caller_identity" "current" {}
